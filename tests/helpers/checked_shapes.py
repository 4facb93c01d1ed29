"""beartype as jaxtyping's import hook calls it: an int is a float, as in PEP 484.

Within a test a function is checked once for arguments of the same types and shapes: checking takes
longer than most of what is checked, which loops call thousands of times.
"""

import random
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FunctionType
from typing import Any
from unittest import mock

# Which entry of a list it looks at is drawn: not from the global generator, which tests watch.
drawn, random.getrandbits = random.getrandbits, random.Random(0).getrandbits

import jaxtyping  # noqa: E402
import torch  # noqa: E402
from beartype import BeartypeConf, beartype  # noqa: E402

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
checker(lambda entries: None)  # what it imports at its first use, now
random.getrandbits = drawn

KNOWN: set[Hashable] = set()  # of this test; conftest.py empties it before each


@contextmanager
def once_a_test() -> Iterator[None]:
    """Around the import of what is checked."""
    plain = jaxtyping.jaxtyped

    def jaxtyped(*given: Any, **options: Any) -> Any:
        decorate = plain(*given, **options)
        return lambda one: _once(one, decorate) if type(one) is FunctionType else decorate(one)

    with mock.patch.object(jaxtyping, "jaxtyped", jaxtyped):
        yield


def _once(function: FunctionType, decorate: Any) -> Any:
    checked = decorate(function)

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        key = function, _kind(args), _kind(options)
        if key in KNOWN:
            return function(*args, **options)
        result = checked(*args, **options)
        KNOWN.add(key)
        return result

    return called


def _kind(value: Any) -> Hashable:
    """What checks look at: of a tensor its shape and type, of a container those of its entries."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((name, _kind(one)) for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return type(value), *map(_kind, value)
    return type(value)
