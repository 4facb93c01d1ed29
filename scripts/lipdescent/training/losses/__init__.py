"""Training losses, one file each: ``loss(logits, targets, **options)`` -> loss of every sample.

``logits`` and one-hot ``targets`` have shape (..., num_classes), the result (...). A loss whose
gradient has a short closed form carries it as ``logit_gradient`` (:func:`with_gradient`): the fused
training step uses it and saves the overhead of autograd; every other loss is differentiated by
autograd.
"""

import math
from collections.abc import Callable


def with_gradient(function: Callable) -> Callable[[Callable], Callable]:
    """Decorator that gives a loss its gradient with respect to the logits, (..., num_classes)."""

    def attach(loss: Callable) -> Callable:
        vars(loss)["logit_gradient"] = function
        return loss

    return attach


def positive(**values: float) -> None:
    """ValueError that names the option unless every value is positive and finite."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value}: allowed are positive numbers")


def not_negative(**values: float) -> None:
    """ValueError that names the option unless every value is at least 0 and finite."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value}: allowed are numbers >= 0")
