"""Frobenius and spectral norm of every weight, as a matrix (outputs, all else).

Of constrained layers in the weights that they use. Béthune et al. (2022, arXiv 2104.05097) plot
such norms while an unconstrained network trains. Of a convolution the matrix is its kernel, whose
spectral norm is not that of the operator: neither is a bound, and products of them are none.
"""

from collections.abc import Iterator
from typing import Any

import torch

from lipdescent.measurement import Measurement
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.model_stack import ModelStack


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Both norms of every weight of every checkpoint."""
    yield from measure(subject.sound, **options)


def measure(stack: ModelStack) -> Iterator[Measurement]:
    """Yield ``layer_frobenius_norm@NAME`` and ``layer_spectral_norm@NAME`` of parameters NAME.

    Weights have two axes and more; biases and scales are none. Norms are taken in float64.
    """
    for name, parameter in stack.module.named_parameters():
        if parameter.dim() < 2:
            continue
        values = torch.linalg.svdvals(stack.state[name].double().flatten(2))
        whole = torch.linalg.vector_norm(values, dim=-1)
        yield Measurement(f"layer_frobenius_norm@{name}", "metric", "", whole)
        yield Measurement(f"layer_spectral_norm@{name}", "metric", "l2", values.amax(-1))
