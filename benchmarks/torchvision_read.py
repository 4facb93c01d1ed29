"""Which of torchvision's classifiers `bracket` reads, as a table of docs/networks.md.

    python benchmarks/torchvision_read.py            # all of them, some minutes
    python benchmarks/torchvision_read.py resnet18   # these only, printed

Networks are built on the meta device, without values: what is asked is whether their operations
are known. An expression is a chain, sum or concatenation of layers; a graph has products of
values, such as attention and gates, or branches that cross.
"""

from __future__ import annotations

import sys
import time

import checkout  # noqa: F401
import docs_numbers
import torch
import torchvision
from machine import machine
from torch import nn
from torchvision.models import regnet

from lipdescent.networks.export.network import export
from lipdescent.networks.graph import GraphNetwork
from lipdescent.structure.exported import needs_export

KINDS = ("known layers", "an expression", "a graph")
_WIDTHS = regnet.BlockParams.from_init_params.__func__


def built(name: str) -> nn.Module:
    """A classifier on the meta device."""

    def widths(cls, *args, **options):  # these compute with tensors where they want numbers
        with torch.device("cpu"):
            return _WIDTHS(cls, *args, **options)

    regnet.BlockParams.from_init_params = classmethod(widths)
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **more).eval()


def read_as(name: str) -> tuple[str, str]:
    """How one network is read, or why it is not."""
    model = built(name)
    size = 299 if name == "inception_v3" else 224
    if not needs_export(model):
        return "known layers", ""
    try:
        found = export(model, [(3, size, size)])
    except TypeError as error:
        return "not read", str(error)
    graph = isinstance(found.network, GraphNetwork) and isinstance(found.network.structure, str)
    return "a graph" if graph else "an expression", ""


def main(names: list[str]) -> None:
    every = torchvision.models.list_models(module=torchvision.models)
    rows = []
    for name in names or every:
        start = time.perf_counter()
        row = (name, *read_as(name))
        print(*row, f"{time.perf_counter() - start:.1f} s", flush=True)
        rows.append(row)
    if not names:
        write(rows)


def write(rows: list[tuple[str, str, str]]) -> None:
    """The table, where docs_numbers.py takes it from, and into its page."""
    cells = {how: ", ".join(n for n, h, _ in rows if h == how) for how in KINDS}
    table = [[how, names] for how, names in cells.items() if names]
    table += [["not read", f"{name}: {why}"] for name, how, why in rows if how == "not read"]
    count = sum(how != "not read" for _, how, _ in rows)
    version = torchvision.__version__.split("+")[0]
    texts = {
        "count": f"{count} of torchvision {version}'s {len(rows)} classifiers",
        "table": {"header": ["read as", "classifiers"], "rows": table},
    }
    docs_numbers.record(
        "torchvision_read",
        command="python benchmarks/torchvision_read.py",
        machine=machine(),
        repetitions="one: nothing is timed",
        texts=texts,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
