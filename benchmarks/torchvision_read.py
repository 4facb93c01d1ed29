"""Which of torchvision's classifiers `bracket` reads, as a table: into docs/networks.md.

    python benchmarks/torchvision_read.py            # all of them, some minutes
    python benchmarks/torchvision_read.py resnet18   # these only, printed

Networks are built on the meta device, without values: what is asked is whether their operations
are known. An expression is a chain, sum or concatenation of layers; a graph has products of
values, such as attention and gates, or branches that cross.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models import regnet

from lipdescent.networks.export.network import export
from lipdescent.networks.graph import GraphNetwork
from lipdescent.structure.exported import needs_export

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
BEGIN, END = "<!-- torchvision_read -->\n", "<!-- end -->\n"
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
    """The table, into its page."""
    read = [row for row in rows if row[1] != "not read"]
    lines = [
        f"{len(read)} of torchvision {torchvision.__version__.split('+')[0]}'s {len(rows)} "
        "classifiers are read.\n",
        "| read as | classifiers |",
        "|---|---|",
    ]
    for kind in ("known layers", "an expression", "a graph"):
        cells = ", ".join(name for name, how, _ in rows if how == kind)
        lines.append(f"| {kind} | {cells} |")
    for name, how, why in rows:
        if how == "not read":
            lines.append(f"| not read | {name}: {why} |")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after)


if __name__ == "__main__":
    main(sys.argv[1:])
