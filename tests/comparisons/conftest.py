"""Figures are drawn as they are printed."""

import pytest

from lipdescent.figures import _style as style


@pytest.fixture(autouse=True)
def printed():
    with style.printed():
        yield
