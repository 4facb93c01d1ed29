"""What a user declares of a layer of their own: its constant, its slopes, the range of its values.

::

    @lipdescent.layer(slopes=(0, 2))          # (f(x) - f(y)) / (x - y), entry by entry
    class Snake(nn.Module):
        def forward(self, x):
            return x + torch.sin(x) ** 2

    lipdescent.layer(constant={"l2": 1.0})(otherlibrary.SpectralLinear)

A declaration is believed, not proved: bounds that rest on one say so. It holds for that very
class, not for classes that inherit from it, and is tried at random inputs.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

NORMS = ("l1", "l2", "linf")
Kind = TypeVar("Kind", bound=type[nn.Module])
# A number for all norms, one for each of some, or how an instance's settings give one of these.
Constant = float | Mapping[str, float] | Callable[[Any], "float | Mapping[str, float]"]


@dataclass(frozen=True)
class Declaration:
    """What holds of every instance of one class, at all inputs.

    Attributes
    ----------
    constant : upper bound of the Lipschitz constant, the same norm on inputs and outputs.
    slopes : (a, b) of a function that acts entry by entry: every quotient is between them.
    range : (low, high) of every entry of the outputs.
    """

    constant: Constant | None
    slopes: tuple[float, float] | None
    range: tuple[float, float] | None

    def constants(self, module: nn.Module) -> dict[str, float]:
        """Norm -> constant of one instance, for the norms of which something is declared."""
        given: Any = self.constant(module) if callable(self.constant) else self.constant
        if given is None:
            found = {}
        else:
            found = dict(given) if isinstance(given, Mapping) else dict.fromkeys(NORMS, given)
        for norm, value in found.items():
            _check_constant(norm, value)
        if self.slopes is not None:
            steepest = max(map(abs, self.slopes))
            found = {norm: min(found.get(norm, steepest), steepest) for norm in NORMS}
        return {norm: float(value) for norm, value in found.items()}

    def __str__(self) -> str:
        named = {"constant": self.constant, "slopes": self.slopes, "range": self.range}
        said = [
            f"{name} of its own settings" if callable(value) else f"{name} {value}"
            for name, value in named.items()
            if value is not None
        ]
        return ", ".join(said)


_DECLARED: dict[type[nn.Module], Declaration] = {}


def layer(
    *,
    constant: Constant | None = None,
    slopes: tuple[float, float] | None = None,
    range: tuple[float, float] | None = None,
) -> Callable[[Kind], Kind]:
    """Declare a class of modules, as a decorator or called on a class of another library.

    Parameters
    ----------
    constant : upper bound of the Lipschitz constant, as a number for all norms, a number for each
        of "l2", "linf" and "l1", or a function of an instance that gives one of these from its
        settings. Other norms are ``not_applicable``.
    slopes : (a, b), for functions that act entry by entry; gives the constants, too, and bounds
        that use slopes (LipSDP).
    range : (low, high) of every output, which bounds on domains use.

    Raises
    ------
    TypeError
        For what is no class of modules, or a class with known or declared other properties.
    ValueError
        For negative or NaN constants, an interval that is none, or no declaration at all.
    """
    if constant is None and slopes is None:
        raise ValueError("layer: declare a constant or slopes; a range alone gives no bound")
    declaration = Declaration(
        constant, _interval("slopes", slopes, finite=True), _interval("range", range, finite=False)
    )
    if isinstance(constant, Mapping) or (constant is not None and not callable(constant)):
        declaration.constants(nn.Module())

    def declare(kind: Kind) -> Kind:
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise TypeError(f"layer: {kind!r}; allowed is a class of nn.Module")
        if kind.__module__.partition(".")[0] in ("torch", "lipdescent"):
            raise TypeError(f"layer: {kind.__qualname__} is known; what is computed of it stands")
        _DECLARED[kind] = declaration
        return kind

    return declare


def declaration_of(module: object) -> Declaration | None:
    """What is declared of a module's very class."""
    return _DECLARED.get(type(module))  # type: ignore[arg-type]


def undeclared(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules with their paths, but declared ones and what is inside of them."""
    if declaration_of(module) is None:
        yield path, module
        for name, part in module.named_children():
            yield from undeclared(part, f"{path}.{name}" if path else name)


def declared_parts(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost declared modules with their paths."""
    if declaration_of(module) is not None:
        yield path, module
        return
    for name, part in module.named_children():
        yield from declared_parts(part, f"{path}.{name}" if path else name)


def said(module: nn.Module) -> str:
    """``0 (Snake): slopes (0, 2)``, for each declared part of a network; "" without one."""
    return "; ".join(
        f"{path or 'the network'} ({type(part).__name__}): {declaration_of(part)}"
        for path, part in declared_parts(module)
    )


def _check_constant(norm: str, value: float) -> None:
    if norm not in NORMS:
        raise ValueError(f"layer: constant of norm {norm!r}; allowed are {', '.join(NORMS)}")
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"layer: constant = {value!r}; allowed are finite numbers >= 0")


def _interval(
    name: str, given: tuple[float, float] | None, *, finite: bool
) -> tuple[float, float] | None:
    if given is None:
        return None
    low, high = (float(end) for end in given)
    if not low <= high or (finite and not (math.isfinite(low) and math.isfinite(high))):
        what = "finite " if finite else ""
        raise ValueError(f"layer: {name} = {given}; allowed are {what}numbers (low, high)")
    return low, high
