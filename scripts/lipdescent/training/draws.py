"""What a training draws from its seeds: weights, the order of batches, augmentation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lipdescent.stacks import own_call
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack, in_dtype, refuse_shared
from lipdescent.stacks.seeding import generator, seed_of
from lipdescent.training import augmentation

NUM_COMPARED = 3  # random inputs at which a network's own call is compared


def initial_stack(
    build: Callable[[], nn.Module], seeds: Sequence[int], input_shape: Sequence[int]
) -> ModelStack:
    """One model per entry of ``seeds``, drawn by PyTorch's default initialisation.

    Equal seeds give equal weights. The global random state is left as it was.

    Raises
    ------
    ValueError
        If a network uses a parameter or a buffer in two places, or computes something else than
        the stacked pass.
    """
    drawn: dict[int, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        for seed in dict.fromkeys(seeds):
            torch.manual_seed(seed_of("weights", seed))
            drawn[seed] = build()
            refuse_shared(drawn[seed])
    stack = ModelStack.from_modules([drawn[seed] for seed in seeds], input_shape)
    check_call(stack)
    return stack


def check_call(stack: ModelStack) -> None:
    """Compare calling the first module with the stacked pass that is trained, at random inputs.

    Raises
    ------
    ValueError
        Where they differ: a hook or a replaced method that training would not see.
    """

    def read(points: Tensor, dtype: torch.dtype) -> Tensor:
        own = in_dtype({name: t[:1].clone() for name, t in stack.state.items()}, dtype)
        batch = points.to(dtype, copy=True)[None]
        return stacked_forward(stack.module, own, batch, train=False)[0][0]

    points, places = own_call.random_inputs(stack.input_shape, stack.device)
    own_call.check_call(stack.module, read, points[:NUM_COMPARED], places[:NUM_COMPARED])


def batch_order(
    seeds: Sequence[int], epoch: int, num_train: int, *, kind: str = "shuffled"
) -> Tensor:
    """Order of the samples in an epoch: (len(seeds), num_train).

    "shuffled" is drawn from seed and epoch; "fixed" is the order of the data, in every epoch and
    for every seed (a DataLoader with shuffle=False, as in the code of Khromov & Singh 2024).
    """
    if kind == "fixed":
        return torch.arange(num_train).expand(len(seeds), -1)
    drawn = {
        seed: torch.randperm(num_train, generator=generator("order", seed, epoch))
        for seed in dict.fromkeys(seeds)
    }
    return torch.stack([drawn[seed] for seed in seeds])


def dropout_keys(seeds: Sequence[int], epoch: int, updates: int) -> Tensor:
    """A key of the dropout masks for every update of an epoch: int64 (updates, len(seeds)).

    Drawn from seed and epoch; what a mask is made of it: :mod:`lipdescent.stacks.dropout`.
    """
    drawn = {
        seed: torch.randint(2**63 - 1, (updates,), generator=generator("dropout", seed, epoch))
        for seed in dict.fromkeys(seeds)
    }
    return torch.stack([drawn[seed] for seed in seeds], 1)


def augmentation_draws(
    seeds: Sequence[int], epoch: int, num_train: int, *, padding: int, flip: bool
) -> Tensor:
    """Crops and flips of an epoch by place in its order: int64 (len(seeds), num_train, 3)."""
    drawn = {}
    for seed in dict.fromkeys(seeds):
        source = generator("augmentation", seed, epoch)
        offsets, flips = augmentation.draw(num_train, padding=padding, flip=flip, generator=source)
        drawn[seed] = torch.cat([offsets, flips.long().unsqueeze(1)], 1)
    return torch.stack([drawn[seed] for seed in seeds])
