"""Names for people of what the tidy table holds. Imports no plotting library."""

from lipdescent.analysis.groups import Rung
from lipdescent.storage.variants import Value

PER_SAMPLE = "parameters / sample"
ERROR = "test error"
CALIBRATED = "test loss at a fitted scale"
NORMS = {"l1": r"$\ell_1$", "l2": r"$\ell_2$", "linf": r"$\ell_\infty$"}
NORMS |= {f"{norm}_softmax": f"softmax, {name}" for norm, name in NORMS.items()}
SPELLING = {
    "jacobian": "Jacobian",
    "gaussian": "Gaussian",
    "lipsdp": "LipSDP",
    "geolip": "GeoLIP",
    "eclipse fast": "ECLipsE-Fast",
    "combettes pesquet": "Combettes-Pesquet",
}
LOSS_UNITS = {"cross_entropy": "nats"}


def noise_name(level: float) -> str:
    """A fraction as a percentage: .25 -> ``25 %``."""
    return f"{100 * level:g} %"


def variant_name(variant: str) -> str:
    """``mlp+depth=3`` -> ``mlp, depth=3``: an architecture at a point of further axes."""
    return variant.replace("+", ", ")


def width_name(*units: str) -> str:
    """``width (units)``, ``width (units, channels)`` of two kinds, ``width`` of an unknown one."""
    known = list(dict.fromkeys(filter(None, units)))
    return f"width ({', '.join(known)})" if known else "width"


def axis_name(axis: str, *units: str) -> str:
    """``num_train`` -> ``num train``; ``units`` are what widths count."""
    known = {"width": width_name(*units), "num_parameters": "number of parameters"}
    return known.get(axis, axis.replace("_", " "))


def place_name(axis: str, value: Value) -> str:
    """``depth 3``, ``adam``, ``label noise 20 %``: an axis's value, a word without the axis."""
    if isinstance(value, str):
        return value.replace("_", " ")
    told = noise_name(value) if axis == "label_noise" else f"{value:g}"
    return f"{axis.replace('_', ' ')} {told}"


def rung_name(rung: Rung) -> str:
    """``upper_layer_product`` -> ``layer product (upper)``."""
    name = rung.quantity.removeprefix("lower_").removeprefix("upper_").replace("_", " ")
    name = name.replace("@", ", ")
    for plain, proper in SPELLING.items():
        name = name.replace(plain, proper)
    return f"{name} ({rung.direction})"


def loss_name(split: str, loss: str) -> str:
    """``test cross entropy (nats)``."""
    unit = f" ({LOSS_UNITS[loss]})" if loss in LOSS_UNITS else ""
    return f"{split} {loss.replace('_', ' ')}{unit}"


def bound_name(direction: str, norm: str) -> str:
    """``lower Lipschitz bound ($\\ell_2$)``, the best one; logits per unit of input.

    An ``estimate`` is one from below that is not certified, a ``declared`` one from above rests on
    what a user declared.
    """
    what = "estimate from below" if direction == "estimate" else f"{direction} Lipschitz bound"
    return constant_name(what, norm)


def constant_name(what: str, norm: str) -> str:
    """``certified bracket (logits per input, $\\ell_2$)``: what has the unit of the constants."""
    of = "probabilities" if norm.endswith("_softmax") else "logits"
    return f"{what} ({of} per input, {NORMS.get(norm, norm)})"
