"""A domain as a configuration, the command line and Python write it; imports no torch.

``everywhere``; ``{box: [0, 1]}``; ``{ball: {radius: 0.1, norm: l2}}``, around every data point; or
in one word ``box:0,1``, ``ball:l2:0.1``. Each of them is taken in all three places.
"""

import math
from collections.abc import Mapping
from typing import Any

import yaml

EVERYWHERE = "everywhere"
NORMS = ("l2", "linf")
ALLOWED = (
    "allowed are everywhere, {box: [low, high]}, {ball: {radius: R, norm: l2 or linf}}, and the "
    "words box:0,1 and ball:l2:0.1"
)


def checked(value: Any) -> str | dict[str, Any]:
    """The domain with its defaults filled in: "everywhere", ``{"box": ...}`` or ``{"ball": ...}``.

    Raises
    ------
    ValueError
        For anything else, a box that is empty (low > high) or a ball of negative or infinite
        radius, naming the value and what is allowed.
    """
    if value is None or value == EVERYWHERE:
        return EVERYWHERE
    if isinstance(value, str):
        return _of_words(value)
    if not isinstance(value, Mapping) or len(value) != 1 or set(value) - {"box", "ball"}:
        raise ValueError(f"domain = {value!r}: {ALLOWED}")
    return _box(value["box"]) if "box" in value else _ball(value["ball"])


def _of_words(text: str) -> str | dict[str, Any]:
    """The domain that a text means: words with colons, or a mapping as in a configuration."""
    kind, _, rest = text.partition(":")
    try:
        if text.lstrip().startswith("{"):
            return checked(yaml.safe_load(text))
        if kind == "box":
            return checked({"box": [float(number) for number in rest.split(",")]})
        if kind == "ball":
            norm, _, radius = rest.partition(":")
            return checked({"ball": {"radius": float(radius), "norm": norm}})
    except yaml.YAMLError:
        pass
    except ValueError as error:
        raise ValueError(f"domain {text}: {error}") from None
    raise ValueError(f"domain {text}: {ALLOWED}")


def _box(ends: Any) -> dict[str, Any]:
    if not isinstance(ends, (list, tuple)) or len(ends) != 2 or not all(map(_is_number, ends)):
        raise ValueError(f"domain: box = {ends!r}: allowed are two finite numbers [low, high]")
    if ends[0] > ends[1]:
        raise ValueError(
            f"domain: box = {list(ends)}: low > high, it is empty; allowed: low <= high"
        )
    return {"box": [float(end) for end in ends]}


def _ball(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or set(given) - {"radius", "norm"} or "radius" not in given:
        raise ValueError(f"domain: ball = {given!r}: allowed is {{radius: R, norm: l2 or linf}}")
    radius, norm = given["radius"], given.get("norm", "l2")
    if norm not in NORMS:
        raise ValueError(f"domain: ball.norm = {norm!r}: allowed are {', '.join(NORMS)}")
    if not _is_number(radius) or radius < 0:
        raise ValueError(
            f"domain: ball.radius = {radius!r}: allowed are finite numbers >= 0 (0 is the norm of "
            "the Jacobian at the point); a ball without end is everywhere"
        )
    return {"ball": {"radius": float(radius), "norm": norm}}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
