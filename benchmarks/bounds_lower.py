"""Lower bounds of deep ReLU networks and a bracket's budget: values and CPU seconds, one thread.

``lower_search`` and ``lower_ascent`` on random deep narrow networks, and on networks of your own:
``--npz FILE`` reads W1, b1, W2, b2, ... in their order (such as ACAS-Xu's, 5-50x6-5). Medians over
``--seeds``. ``--budget`` brackets networks of five kinds with budgets of 5 and 20 s: the seconds of
all methods together, of the clock and of the CPU, should be below twice that.

Run: OMP_NUM_THREADS=1 python benchmarks/bounds_lower.py [--npz FILE] [--seeds 3] [--budget]
"""

from __future__ import annotations

import argparse
import itertools
import time
from statistics import median

import checkout  # noqa: F401
import numpy as np
import torch
from torch import nn

from lipdescent.bounds import lower_ascent, lower_jacobian, lower_search
from lipdescent.bracketing import affordable
from lipdescent.bracketing.bracket import bracket
from lipdescent.stacks.model_stack import ModelStack

SIZES = ((5, 50, 50, 50, 50, 50, 50, 5), (40, 48, 48, 10))


def random_network(sizes: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [(nn.Linear(m, n), nn.ReLU()) for m, n in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain(*layers))[:-1].eval()


def saved_network(path: str) -> nn.Sequential:
    with np.load(path) as file:
        arrays = [torch.from_numpy(file[name]) for name in file.files]
    layers: list[nn.Module] = []
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def compare(name: str, network: nn.Sequential, seeds: int) -> None:
    stack = ModelStack.from_modules([network], (network[0].in_features,))
    for bound in (lower_jacobian, lower_ascent, lower_search):
        values, seconds = [], []
        for seed in range(seeds):
            inputs, start = affordable.normal(stack, seed), time.process_time()
            found = next(iter(bound.measure(stack, inputs=inputs, seed=seed)))
            seconds.append(time.process_time() - start)
            values.append(float(found.values))
        spread = f"{min(values):.4g} to {max(values):.4g}"
        print(f"{name:24} {found.quantity:16} {spread:22} {median(seconds):6.1f} s", flush=True)


class Gated(nn.Module):
    """No chain: ``torch.export`` reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = (
            nn.Linear(64, 256),
            nn.Linear(256, 256),
            nn.Linear(256, 9),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        return self.last(hidden + torch.sigmoid(self.gate(hidden)) * torch.tanh(hidden))


def of_five_kinds() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    from torchvision.models import VisionTransformer

    convolutions = [
        nn.Sequential(nn.Conv2d(m, n, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        for m, n in ((3, 32), (32, 32), (32, 64))
    ]
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64
    )
    nn.init.normal_(vit.heads.head.weight)
    return {
        "64-128-10000": (random_network((64, 128, 10_000)), (64,)),
        "784-1000-1000-10": (random_network((784, 1000, 1000, 10)), (784,)),
        "CNN": (nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, 10)), (3, 32, 32)),
        "exported": (Gated(), (64,)),
        "ViT": (vit, (3, 32, 32)),
    }


def budgets() -> None:
    for budget in (5.0, 20.0):
        for name, (network, shape) in of_five_kinds().items():
            clock, start = time.perf_counter(), time.process_time()
            found = bracket(network.eval(), shape, budget=budget)
            late = sorted(set(found.table[found.table.status == "not_in_budget"].quantity))
            print(
                f"{name:17} budget {budget:g} s: {time.perf_counter() - clock:.1f} s, CPU "
                f"{time.process_time() - start:.1f} s; {found.lower:.4g} to {found.upper:.4g}; "
                f"not in budget: {', '.join(late) or 'none'}",
                flush=True,
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npz", action="append", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", action="store_true")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for path in wanted.npz:
        compare(path.rpartition("/")[2], saved_network(path), wanted.seeds)
    for sizes in SIZES:
        compare("-".join(map(str, sizes)), random_network(sizes), wanted.seeds)
    if wanted.budget:
        budgets()


if __name__ == "__main__":
    main()
