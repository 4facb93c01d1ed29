"""Brackets of networks as they are published, as a table of docs/networks.md.

    python benchmarks/bounds_networks.py                       # torchvision's, some minutes
    python benchmarks/bounds_networks.py --onnx net.onnx ...   # ONNX files beside them
    python benchmarks/bounds_networks.py --only resnet18       # printed, not written

torchvision's networks have the weights that they start with (seed 0) and normal inputs; they are
bracketed in l2, ONNX files in l2 and l_inf. CPU seconds of one thread: of the layer product alone,
and of the whole bracket, whose searches end by the clock (``bracket``'s default budget).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import docs_numbers
import torch
import torchvision
from cpu_time import seconds
from machine import machine

import lipdescent
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.stacks.model_stack import ModelStack

TORCHVISION = {"vgg11": 32, "resnet18": 64, "resnet50": 64}  # pixels
HEADER = [
    "network", "norm", "best lower", "best upper", "upper / lower", "CPU s", "layer product",
    "CPU s of it",
]  # fmt: skip


def rows(only: list[str], files: list[Path]) -> Iterator[list[str]]:
    for name, size in TORCHVISION.items():
        if not only or name in only:
            torch.manual_seed(0)
            shape = (3, size, size)
            network = torchvision.models.get_model(name, weights=None).eval()
            stack = ModelStack.from_modules([network], shape)
            spent, product = seconds(partial(layer_product, stack))
            of_it = [f"{float(product):.5g}", f"{spent:.1f}"]
            yield [f"{name}, {size} x {size}", *bracketed(network, shape, "l2"), *of_it]
    for file in files:
        net = lipdescent.load_onnx(file)
        for norm in ("l2", "linf"):
            yield [file.stem, *bracketed(net.network, net.input_shape, norm), "", ""]


def bracketed(network: torch.nn.Module, shape: Any, norm: str) -> list[str]:
    spent, found = seconds(partial(lipdescent.bracket, network, shape, norm=norm))
    values = found.lower, found.upper, found.ratio
    return [norm, *(f"{value:.5g}" for value in values), f"{spent:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], choices=list(TORCHVISION))
    parser.add_argument("--onnx", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for row in rows(arguments.only, arguments.onnx):
        print(" | ".join(row), flush=True)
        table.append(row)
    if not arguments.only:
        docs_numbers.record(
            "bounds_networks",
            command="python benchmarks/bounds_networks.py"
            + " --onnx" * bool(arguments.onnx)
            + "".join(f" {file.name}" for file in arguments.onnx),
            machine=machine(),
            repetitions="one",
            texts={"machine": machine(), "table": {"header": HEADER, "rows": table}},
        )


if __name__ == "__main__":
    main()
