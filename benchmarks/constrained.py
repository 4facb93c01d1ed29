"""A training step of constrained networks against that of unconstrained ones.

    python benchmarks/constrained.py [--width 128] [--depths 1 2 3] [--repetitions 7]

Stacks of 30 networks on MNIST1D, batch 100, Adam, one thread; both as the workflow trains them,
timed in turns. The ratio is the median over the repetitions of the ratios of neighbours. Below:
seconds that PGD and certificates of all the stack's checkpoints take, against its training.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from lipdescent import certificates
from lipdescent import device as devices
from lipdescent.architectures import lipschitz_mlp, mlp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.constrained.plain import materialise
from lipdescent.datasets import mnist1d
from lipdescent.replica_block import TrainingData
from lipdescent.stacking import ModelStack
from lipdescent.training import StackTraining, initial_stack
from lipdescent.training_options import TrainingOptions

NUM_MODELS, NUM_TRAIN, BATCH = 30, 1000, 100
LOSS = {"loss": "cross_entropy_temperature", "loss_options": {"tau": 64}}
KINDS = {
    "unconstrained": partial(mlp.build, bias=True),
    "Björck, MaxMin": lipschitz_mlp.build,
    "soft spectral norm, ReLU": partial(
        lipschitz_mlp.build, constraint="spectral", activation="relu", constant=2.0
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(
        f"device: {devices.describe(torch.device('cpu'))}, torch {torch.__version__}, width "
        f"{arguments.width}, {NUM_MODELS} models, medians of {arguments.repetitions} repetitions\n"
    )
    print("| hidden layers | network | step, ms | times the unconstrained one |\n|---|---|---|---|")
    for depth in arguments.depths:
        steps(arguments.width, depth, arguments.repetitions)
    share(arguments.width)


def prepare(build, width: int, depth: int) -> StackTraining:
    dataset = mnist1d.load(num_train=NUM_TRAIN)
    labels = torch.from_numpy(dataset.train_labels).expand(NUM_MODELS, -1)
    data = TrainingData(torch.from_numpy(dataset.train_inputs), labels, 10)
    seeds = list(range(NUM_MODELS))
    own = partial(build, width, input_shape=(40,), num_classes=10, depth=depth)
    options = TrainingOptions(learning_rate=3e-3, batch_size=BATCH, optimizer="adam", **LOSS)
    stack = initial_stack(own, seeds, (40,))
    return StackTraining(stack, data, seeds=seeds, epochs=[0, 10**6], options=options)


def steps(width: int, depth: int, repetitions: int) -> None:
    trainings = {name: prepare(build, width, depth) for name, build in KINDS.items()}
    taken = {name: [] for name in KINDS}
    for i in range(repetitions + 1):
        for name, training in trainings.items():
            start = time.perf_counter()
            training._one_epoch()
            if i:  # the first one warms up
                taken[name].append((time.perf_counter() - start) / (NUM_TRAIN / BATCH))
    base = taken["unconstrained"]
    for name, own in taken.items():
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        print(
            f"| {depth} | {name} | {1e3 * statistics.median(own):.1f} | {ratio:.1f} |", flush=True
        )


def share(width: int, *, epochs: int = 100, num_checkpoints: int = 5) -> None:
    """Certificates and attacks of some checkpoints against the training of as many epochs."""
    training = prepare(KINDS["Björck, MaxMin"], width, 1)
    start = time.perf_counter()
    for _ in range(epochs):
        training._one_epoch()
    trained = time.perf_counter() - start
    state = torch.utils._pytree.tree_map(
        lambda *t: torch.cat(t), *[block.engine.state() for block in training.blocks]
    )
    state = {name: t.repeat(num_checkpoints, *[1] * (t.dim() - 1)) for name, t in state.items()}
    dataset = mnist1d.load(num_train=NUM_TRAIN)
    start = time.perf_counter()
    module = lipschitz_mlp.build(width, input_shape=(40,), num_classes=10)
    stack = ModelStack(*materialise(module, state), (40,))
    found = certificates.measure(
        stack,
        inputs={"test": torch.from_numpy(dataset.test_inputs)},
        labels={"test": torch.from_numpy(dataset.test_labels)},
        upper={norm: layer_product(stack, norm=norm) for norm in ("l2", "linf")},
        radii={"l2": [0.05, 0.1, 0.2], "linf": [0.01, 0.05]},
        seed=0,
    )
    count = len(list(found))
    taken = time.perf_counter() - start
    print(
        f"\n{count} certificates and attacks of {stack.num_models} checkpoints: {taken:.2f} s, "
        f"{100 * taken / trained:.1f} % of the {trained:.2f} s that {epochs} epochs took"
    )


if __name__ == "__main__":
    main()
