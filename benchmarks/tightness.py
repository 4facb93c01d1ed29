"""How tight each bound is: every rung of the ladder over width, on the networks of a study.

Geometric means over the seeds at the last epoch, at the least and the most label noise: bounds that
the study took come from its table, the others are computed from its checkpoints (Combettes-Pesquet,
ECLipsE-Fast, and up to ``--exact`` units the largest Jacobian over all patterns). The last column
is the mean of upper_lipsdp / best lower bound per network, the factor left open. Digits are rounded
outwards: lower bounds down, upper ones up.

Run: python benchmarks/tightness.py [results/one_hidden_layer] [--exact 12]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import checkout  # noqa: F401
import numpy as np
import torch

from lipdescent import datasets
from lipdescent.analysis import groups, statistics
from lipdescent.analysis import ladder as analysis_ladder
from lipdescent.arithmetic import decimals
from lipdescent.measuring.measure import checkpoint_stack
from lipdescent.plugins import lookup
from lipdescent.storage import checkpoints, table

COMPUTED = ("upper_combettes_pesquet", "upper_eclipse_fast", "exact_enumeration")
HEADER = ["width", "best lower", "exact", "LipSDP", "Combettes-Pesquet", "ECLipsE-Fast", "product",
          "LipSDP / lower"]  # fmt: skip


def computed(path: Path, exact: int) -> tuple[int, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Width, label noise and seed (replicas,), and bound -> (replicas,), at the last epoch."""
    saved = checkpoints.read(path)
    run = saved.origin.run
    dataset = datasets.read(path.parents[4] / "datasets" / f"{run['dataset']}.npz")
    stack = checkpoint_stack(saved, dataset)
    last = stack[-saved.num_replicas :]
    found = {}
    for name in COMPUTED:
        if name != "exact_enumeration" or run["width"] <= exact:
            measured = next(lookup.resolve("bounds", name).measure(last, inputs={}))
            found[name] = measured.values.numpy()
    return run["width"], saved.label_noise.numpy(), saved.seed.numpy(), found


def rows(study: Path, exact: int) -> dict[float, list[list[str]]]:
    """Label noise -> a row of cells for each width."""
    whole = table.read(study / "table.parquet")
    (dataset, architecture), *_ = groups.group_names(whole)
    group = groups.group_of(whole, dataset=dataset, architecture=architecture)
    ladder = analysis_ladder.rungs(group, "l2")
    lower = analysis_ladder.best(group, "lower", "l2")[..., -1, :]
    upper = {rung.quantity: values[..., -1, :] for rung, values in ladder.items()}
    folder = study / "checkpoints" / dataset / architecture
    more: dict[tuple[int, float, str], list[float]] = {}
    for path in folder.glob("width=*/*.safetensors"):
        width, noise, _, found = computed(path, exact)
        for name, values in found.items():
            for level in np.unique(noise):
                key = width, round(float(level), 6), name
                more.setdefault(key, []).extend(values[noise == level].tolist())
    told: dict[float, list[list[str]]] = {}
    for place in (0, len(group.label_noise) - 1):
        level = round(float(group.label_noise[place]), 6)
        for w, width in enumerate(group.width):
            cp, eclipse, pattern = (
                np.array(more.get((int(width), level, name), [np.nan])) for name in COMPUTED
            )
            lipsdp, product = (
                upper[name][w, place] for name in ("upper_lipsdp", "upper_layer_product")
            )
            uppers = [_upper(values) for values in (pattern, lipsdp, cp, eclipse, product)]
            low, _ = statistics.mean_bracket(lower[w, place], lower[w, place])
            gap = statistics.geometric_mean(lipsdp / lower[w, place])
            told.setdefault(level, []).append(
                [str(width), decimals.at_least(float(low), ".2f"), *uppers, f"{gap:.3f}"]
            )
    return told


def _upper(values: np.ndarray) -> str:
    _, high = statistics.mean_bracket(values, values)
    return "-" if np.isnan(high) else decimals.at_most(float(high), ".2f")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, default=Path("results/one_hidden_layer"))
    parser.add_argument("--exact", type=int, default=12, help="largest width to enumerate")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for level, told in rows(wanted.study, wanted.exact).items():
        lines = [HEADER, ["---"] * len(HEADER), *told]
        print(f"\n{100 * level:g} % label noise\n")
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
