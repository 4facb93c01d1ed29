"""What a network takes, counted in forward passes, large ones' on the meta device: without numbers.

Any module will do: what is counted are the operations that PyTorch is asked for, not layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lipdescent.study.network_costs import Cost

# Two batches tell what grows with the samples from what a pass takes in any case.
BATCHES = (2, 4)
# Up to so many parameters a network is passed through on the CPU: sooner done than PyTorch imports
# what it needs to pass through one on the meta device.
SMALL = 2_000_000


def count(
    build: Callable[[], nn.Module], input_shape: Sequence[int], *, num_classes: int
) -> tuple[Cost, list[str]]:
    """Cost of the network that ``build`` makes, and its normalisations that need two samples.

    Returns
    -------
    cost : see :class:`lipdescent.study.network_costs.Cost`.
    single : names of the BatchNorm layers that see one value per channel and sample: a batch of one
        sample has no variance there.

    Raises
    ------
    ValueError
        If the network's outputs are not (samples, num_classes); whatever ``build`` and the pass
        raise.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = build()
            if sum(p.numel() for p in network.parameters()) <= SMALL:
                network = build()
            return _counted(network, input_shape, num_classes, _Tally)
        except Exception:
            # Numbers are needed after all, or the compiler, or there is a mistake, which is raised
            # again here.
            return _counted(build(), input_shape, num_classes, _Shielded)


def _counted(
    network: nn.Module,
    input_shape: Sequence[int],
    num_classes: int,
    kind: Callable[[], "_Tally"],
) -> tuple[Cost, list[str]]:
    single: dict[str, None] = {}
    for name, part in network.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_pre_hook(_look_at(name, single))
    passes = []
    for batch in BATCHES:
        inputs = torch.zeros(batch, *input_shape, device=_device(network))
        with torch.no_grad(), kind() as tally:
            outputs = network.train()(inputs)
        if outputs.shape != (batch, num_classes):
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)} for {batch} inputs; allowed is "
                f"({batch}, {num_classes}), a value per class"
            )
        passes.append((tally.flops // 2, tally.values))
    products, fixed_products = _line([p[0] for p in passes])
    activations, fixed_values = _line([p[1] for p in passes])
    cost = Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        products=products,
        fixed_products=fixed_products,
        activations=activations,
        fixed_values=fixed_values,
        operations=tally.operations,
    )
    return cost, list(single)


def _device(network: nn.Module) -> torch.device:
    tensors = [*network.parameters(), *network.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _line(counts: list[int]) -> tuple[int, int]:
    """Slope and intercept of what two batches took."""
    slope = (counts[1] - counts[0]) // (BATCHES[1] - BATCHES[0])
    return slope, max(0, counts[0] - slope * BATCHES[0])


def _look_at(name: str, single: dict[str, None]) -> Callable[[nn.Module, Any], None]:
    def look(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0]
        if x.dim() < 2 or x.numel() == x.shape[0] * x.shape[1]:
            single[name] = None

    return look


class _Tally(TorchDispatchMode):
    """Counts operations, the values that they write (views write none) and the flops.

    These as PyTorch's FlopCounterMode does, which imports the compiler: a second.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.values, self.flops = 0, 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or it is imported all the same, to say that it has no part in this

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(getattr(func, "overloadpacket", func)):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        if not getattr(func, "is_view", False):
            self.operations += 1
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.values += tensor.numel()
        return out


class _Shielded(_Tally):
    """Beside the compiler, which runs torch.cond: a branch of it counts as one operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)
