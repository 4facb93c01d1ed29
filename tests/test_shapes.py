"""Shapes in signatures are checked under pytest, and only there."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from lipdescent.layers import linear
from lipdescent.stacks import products

ROOT = Path(__file__).parents[1]


def test_a_size_that_differs_within_a_call_is_refused():
    left, right = torch.ones(2, 3, 4), torch.ones(2, 4, 5)
    assert products.bmm(left, right).shape == (2, 3, 5)
    with pytest.raises(TypeCheckError, match="models k n"):
        products.bmm(left, right[:, :3])


def test_a_result_in_lower_precision_is_refused(monkeypatch):
    monkeypatch.setitem(linear.certified_norms.NORMS, "l1", lambda weight: torch.ones(2))
    with pytest.raises(TypeCheckError, match="Float64"):
        linear.linear(torch.nn.Linear(3, 4), {"weight": torch.ones(2, 4, 3)}, norm="l1")


def test_the_library_needs_neither_jaxtyping_nor_beartype():
    """It says what torch says."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('jaxtyping', 'beartype')))\n"
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'jaxtyping' else find(name, *rest)\n"
        "import typing, torch\n"
        "from lipdescent.stacks import products\n"
        "assert typing.get_type_hints(products.bmm)['left'] is torch.Tensor\n"
        "products.bmm(torch.ones(1, 2, 3), torch.ones(1, 3, 2))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
