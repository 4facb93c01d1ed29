"""Stacked training against one model at a time, and against the machine's matrix-product rate.

    python benchmarks/stacking.py [--widths 16 64 128 256] [--repetitions 5] [--device cpu]

One model at a time is plain PyTorch as a study's own script does it: a DataLoader over a
TensorDataset, autograd, torch.optim.SGD. Both sides train the default study's networks
(MNIST1D, 1000 points, batch 100, 30 replicas, one thread) and are timed in turns in one run;
ratios and rates are medians over the repetitions. The peak is a 2048 x 2048 float32 product.
"""

import argparse
import statistics
import time
from functools import partial

import checkout  # noqa: F401
import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.datasets import mnist1d
from lipdescent.jobs import device as devices
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.replicas import noisy_labels, replicas
from lipdescent.training.stack_training import StackTraining

OPTIONS = TrainingOptions(learning_rate=0.05, batch_size=100, momentum=0.9, schedule="cosine")
NOISE, SEEDS = [0, 0.1, 0.2, 0.3, 0.4], range(6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    place = devices.choose(arguments.device)
    dataset = mnist1d.load(num_train=1000)
    print(
        f"device: {devices.describe(place)}, torch {torch.__version__}, "
        f"{arguments.repetitions} repetitions, medians\n"
    )
    print(
        "| width | stack, model epochs/s | one at a time, model epochs/s | ratio "
        "| GFLOP/s | of peak |\n|---|---|---|---|---|---|"
    )
    for width in arguments.widths:
        print(row(width, dataset, place, arguments.repetitions), flush=True)


def row(width, dataset, place, repetitions) -> str:
    noise, seeds = replicas(NOISE, list(SEEDS))
    labels = noisy_labels(dataset, maker="uniform_wrong", label_noise=noise, seeds=seeds)
    inputs = torch.from_numpy(dataset.train_inputs)
    build = partial(mlp.build, width, input_shape=(40,), num_classes=10)
    stack = initial_stack(build, seeds, (40,))
    data = TrainingData(inputs.to(place), labels.to(place), 10)
    training = StackTraining(stack, data, seeds=seeds, epochs=[0, 10**6], options=OPTIONS)
    plain = PlainTraining(build(), inputs, labels[0], place)
    stacked, alone, peaks = [], [], []
    epochs = 3 if width >= 256 else 10
    training.one_epoch()
    plain.one_epoch()
    for _ in range(repetitions):
        stacked.append(
            len(seeds)
            / seconds(lambda: [training.one_epoch() for _ in range(epochs)], place)
            * epochs
        )
        alone.append(1 / seconds(plain.one_epoch, place))
        peaks.append(peak_rate(place))
    ratio = statistics.median(s / a for s, a in zip(stacked, alone, strict=True))
    flops = 220 * width * 1000  # multiply-adds of forward and backward pass, 2 each, per epoch
    rates = [s * flops for s in stacked]
    of_peak = statistics.median(r / p for r, p in zip(rates, peaks, strict=True))
    return (
        f"| {width} | {statistics.median(stacked):.0f} | {statistics.median(alone):.2f} "
        f"| {ratio:.1f} | {statistics.median(rates) / 1e9:.1f} | {of_peak:.0%} |"
    )


class PlainTraining:
    """One network, plainly."""

    def __init__(self, model, inputs, labels, place) -> None:
        self.model, self.place = model.to(place), place
        data = torch.utils.data.TensorDataset(inputs, labels)
        self.loader = torch.utils.data.DataLoader(data, batch_size=100, shuffle=True)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def one_epoch(self) -> None:
        for inputs, labels in self.loader:
            inputs, labels = inputs.to(self.place), labels.to(self.place)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), labels).backward()
            self.optimizer.step()


def seconds(work, place) -> float:
    start = time.perf_counter()
    work()
    if place.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_rate(place, size=2048) -> float:
    """FLOP/s of one large float32 product."""
    a, b = (torch.ones(size, size, device=place) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / seconds(lambda: torch.mm(a, b), place)


if __name__ == "__main__":
    main()
