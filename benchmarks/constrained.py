"""A training step of constrained networks against that of unconstrained ones.

    python benchmarks/constrained.py [--width 128] [--depths 1 2 3] [--repetitions 7]

Stacks of 30 networks on MNIST1D, batch 100, Adam, one thread; both as the workflow trains them,
timed in turns in CPU seconds. The ratio is the median over the repetitions of the ratios of
neighbours. Below: seconds that certificates and PGD take for all the checkpoints of stacks like
those of the studies `random_labels` and `divergence`, against the seconds of their training.
"""

import argparse
import statistics
import time
from functools import partial

import checkout  # noqa: F401
import torch

from lipdescent.architectures import lipschitz_mlp, mlp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.datasets import mnist1d
from lipdescent.jobs import device as devices
from lipdescent.robustness import certificates
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.materialise import materialise
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

NUM_MODELS, NUM_TRAIN, BATCH = 30, 1000, 100
LOSS = {"loss": "cross_entropy_temperature", "loss_options": {"tau": 64}}
KINDS = {
    "unconstrained": partial(mlp.build, bias=True),
    "Björck, MaxMin": lipschitz_mlp.build,
    "soft spectral norm, ReLU": partial(
        lipschitz_mlp.build, constraint="spectral", activation="relu", constant=2.0
    ),
}
# Epochs of training, checkpoints that are measured, radii of the attacks.
STUDIES = {
    "random_labels": {
        "width": 128,
        "depth": 2,
        "num_train": 300,
        "epochs": 200,
        "checkpoints": 2,
        "radii": [0.02, 0.05, 0.1, 0.2],
    },
    "divergence": {
        "width": 64,
        "depth": 1,
        "num_train": 1000,
        "epochs": 1000,
        "checkpoints": 11,
        "radii": [0.02, 0.05, 0.1, 0.2, 0.4],
    },
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
    print("| hidden layers | network | step, CPU ms | times unconstrained |\n|---|---|---|---|")
    for depth in arguments.depths:
        steps(arguments.width, depth, arguments.repetitions)
    print("\n| as in | network | checkpoints | training, CPU s | certificates, CPU s | share |")
    print("|---|---|---|---|---|---|")
    for name, setting in STUDIES.items():
        for kind in ("unconstrained", "Björck, MaxMin"):
            share(kind, name, **setting)


def prepare(build, width: int, depth: int, *, num_train: int = NUM_TRAIN) -> StackTraining:
    dataset = mnist1d.load(num_train=num_train)
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
            start = time.process_time()
            training.one_epoch()
            if i:  # the first one warms up
                taken[name].append((time.process_time() - start) / (NUM_TRAIN / BATCH))
    base = taken["unconstrained"]
    for name, own in taken.items():
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        print(
            f"| {depth} | {name} | {1e3 * statistics.median(own):.1f} | {ratio:.1f} |", flush=True
        )


def share(kind: str, name: str, *, width: int, depth: int, num_train: int, **rest) -> None:
    """A row: seconds of certificates and attacks against those of the training before them.

    The networks are trained for ``epochs``; each checkpoint is the last one, as good as any.
    """
    epochs, count, radii = rest["epochs"], rest["checkpoints"], rest["radii"]
    training = prepare(KINDS[kind], width, depth, num_train=num_train)
    start = time.process_time()
    for _ in range(epochs):
        training.one_epoch()
    trained = time.process_time() - start
    states = [block.engine.state() for block in training.blocks]
    state = {n: torch.cat([s[n] for s in states]) for n in states[0]}
    state = {n: t.repeat(count, *[1] * (t.dim() - 1)) for n, t in state.items()}
    dataset = mnist1d.load(num_train=NUM_TRAIN)
    module = KINDS[kind](width, input_shape=(40,), num_classes=10, depth=depth)
    stack = ModelStack(*materialise(module, state), (40,))
    points = {
        "inputs": {"test": torch.from_numpy(dataset.test_inputs)},
        "labels": {"test": torch.from_numpy(dataset.test_labels)},
        "radii": {"l2": radii},
        "seed": 0,
    }
    few = stack[:2]  # the first call of a kernel is its slowest, here as in training
    list(certificates.measure(few, upper={"l2": layer_product(few)}, **points))
    start = time.process_time()
    list(certificates.measure(stack, upper={"l2": layer_product(stack)}, **points))
    taken = time.process_time() - start
    print(
        f"| {name} | {kind} | {stack.num_models} | {trained:.1f} | {taken:.2f} "
        f"| {taken / trained:.0%} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
