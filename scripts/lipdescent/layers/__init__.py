"""Certified Lipschitz constants of single layers; networks of them are structure/'s matter.

:mod:`lipdescent.layers.table` has ``constant``, and says how to add a layer type.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """The first place of ``chain``, ``residual``, ``add`` and ``concat``, now lipdescent's own."""
    if name in ("add", "chain", "concat", "residual"):
        import lipdescent

        return getattr(lipdescent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
