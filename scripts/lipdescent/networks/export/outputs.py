"""What a ``forward`` returns, as containers that PyTorch's export knows.

Other mappings and dataclasses, as libraries of transformers return them, become dictionaries
without what is None.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def plain(result: Any) -> Any:
    """The same tensors in dictionaries, tuples and lists."""
    if isinstance(result, Mapping):
        return {name: plain(part) for name, part in result.items() if part is not None}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        parts = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        return plain(parts)
    if type(result) in (tuple, list):
        return type(result)(plain(part) for part in result if part is not None)
    return result


@contextlib.contextmanager
def plain_outputs(module: nn.Module) -> Iterator[None]:
    """Let the ``forward`` of ``module`` return plain containers."""
    own, before = module.forward, vars(module).get("forward")
    module.forward = lambda *args, **options: plain(own(*args, **options))
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
