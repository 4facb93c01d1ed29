"""Networks of ``lipschitz_mlp``, one for each seed of an experiment."""

from collections.abc import Sequence
from typing import Any

from lipdescent.architectures import lipschitz_mlp
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.draws import initial_stack


def lipschitz_mlps(
    seeds: Sequence[int], input_shape: Sequence[int], num_outputs: int, width: int, **options: Any
) -> ModelStack:
    """One network of ``lipschitz_mlp`` per seed as it is drawn; ``options`` of its ``build``."""
    shape = tuple(input_shape)
    more = {"input_shape": shape, "num_classes": num_outputs, **options}
    return initial_stack(lambda: lipschitz_mlp.build(width, **more), list(seeds), shape)
