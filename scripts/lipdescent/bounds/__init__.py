"""One bound per file.

Each module offers ``measure(stack, *, inputs, norms, seed, **options)``, an iterator of
:class:`lipdescent.measurement.Measurement`, and the constants ``DIRECTION`` and ``NORMS`` (the
norms it knows). One whose ``measure`` takes ``labels`` is given those too: split -> int64 (n,) or
(num_models, n).
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """``lipdescent.bounds.bracket``, the first place of what is now ``lipdescent.bracket``."""
    if name == "bracket":
        import lipdescent

        return lipdescent.bracket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
