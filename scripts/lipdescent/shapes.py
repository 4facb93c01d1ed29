"""Shapes and types of tensors as annotations: ``Float64[Tensor, "models out in"]``.

They are jaxtyping's, where it is installed. Nothing looks at them when the library runs; under
pytest beartype checks every call of the modules that tests/conftest.py names. One letter or word
means one size throughout a call.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or find_spec("jaxtyping"):
    from jaxtyping import Bool, Complex128, Float, Float64, Int64, Shaped
else:

    class Float:
        """Stands in for jaxtyping's: what it annotates is what it would be without a shape."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Complex128 = Float64 = Int64 = Shaped = Float

__all__ = ["Bool", "Complex128", "Float", "Float64", "Int64", "Shaped"]
