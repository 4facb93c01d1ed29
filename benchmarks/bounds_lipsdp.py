"""LipSDP without an SDP solver: CPU time of one thread, and distance to the optimum.

Networks 40-w-10 (ReLU, no biases) are trained on MNIST1D for some seconds. Tables:

1. One network: median seconds of ``lipsdp`` at its default tolerance, and the proven excess over
   the SDP's optimum, by a dual lower bound computed here. ``--widest`` adds w = 65536.
2. ``--study``: stacks of 30 networks for each of 13 widths from 4 to 512, and the core-seconds of
   4,320 checkpoints (360 per width, that is 12 such stacks).
3. ``--clarabel``: the published SDP by cvxpy and Clarabel at w = 64, side by side (minutes).
   ``--scs``: by SCS at w = 512 (many minutes, one repetition). Either stops after ``--limit``
   seconds of the clock; value nan: it had no solution by then, and the ratio is a lower bound.
4. 40-64-64-64-10, and 10-12-12-12-4 against Clarabel.
5. ``--stacks``: 30 networks 40-w-w-10 at a time (fewer of the widest), with the mean excess over
   the values at tolerance 1e-5.

Run: python benchmarks/bounds_lipsdp.py [--widest] [--study] [--clarabel] [--scs] [--no-tables]
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import checkout  # noqa: F401
import torch
from cpu_time import seconds
from torch import Tensor

from lipdescent.bounds.lipsdp import newton, shallow
from lipdescent.bounds.upper_lipsdp import lipsdp
from lipdescent.datasets import mnist1d
from lipdescent.structure.scaling import balanced

RELU = (0.0, 1.0)
WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)


def trained(sizes: list[int], *, models: int, epochs: int) -> list[Tensor]:
    """Weights (models, width_i, width_{i-1}) after SGD, momentum .9, lr .05, batch 100."""
    data = mnist1d.load(num_train=1000)
    inputs, labels = torch.tensor(data.train_inputs), torch.tensor(data.train_labels)
    generator = torch.Generator().manual_seed(0)
    weights = [
        ((torch.rand(models, m, n, generator=generator) * 2 - 1) / n**0.5).requires_grad_()
        for n, m in pairwise(sizes)
    ]
    optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(100):
            hidden = inputs[batch, : sizes[0]].expand(models, -1, -1)
            for weight in weights[:-1]:
                hidden = (hidden @ weight.mT).relu()
            logits = (hidden @ weights[-1].mT).flatten(0, 1)
            targets = labels[batch].repeat(models) % sizes[-1]
            loss = models * torch.nn.functional.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [weight.detach() for weight in weights]


def dual_lower_bound(weights: list[Tensor]) -> float:
    """Lower bound of the SDP's optimum of one network.

    For X >= 0 of trace 1, lambda_max(M(d)) >= <M(d), X> and the minimum of the right side over d is
    2 sum_i sqrt((p_i X11 p_i)(q_i X22 q_i)) + 2 <C, X21>. X is mu (t I - M)^-1 near the optimal d.
    """
    layers = [w.double()[None] for w in weights]
    rows, columns, _, exponent, _ = balanced(*layers)
    left, right, cross = shallow.reduced(rows, columns, RELU)
    theta = newton.minimise(left, right, cross, tolerance=1e-5, max_steps=80)
    d, n = theta.exp()[:, None], left.shape[1]
    top = torch.cat([(left * d) @ left.mT, cross.mT], -1)
    matrix = torch.cat([top, torch.cat([cross, (right / d) @ right.mT], -1)], -2)
    values, vectors = torch.linalg.eigh(matrix)
    best = 0.0
    for relative in (1e-3, 3e-4, 1e-4, 3e-5, 2e-5, 1e-5):
        mu = relative * values[:, -1] / values.shape[1]
        weight = mu[:, None] / (newton._barrier(values, mu)[0][:, None] - values)
        weight = weight / weight.sum(1, keepdim=True)
        x = (vectors * weight[:, None]) @ vectors.mT
        a = ((x[:, :n, :n] @ left) * left).sum(1).clamp_min(0)
        b = ((x[:, n:, n:] @ right) * right).sum(1).clamp_min(0)
        value = 2 * (a * b).sqrt().sum() + 2 * (cross * x[:, n:, :n]).sum()
        best = max(best, float(value))
    return best * 2.0 ** int(exponent)


def sdp(weights: list[Tensor], solver: str, limit: float) -> float:
    """Fazlyab et al. 2019, theorem 2, by cvxpy; NaN if there is no solution within the limit."""
    import cvxpy as cp
    from lipsdp_optimum import problem as published

    problem, square = published(weights)
    # The faster of Clarabel's linear solvers.
    fast = {"direct_solve_method": "faer", "max_threads": 1, "time_limit": limit}
    options = {"CLARABEL": fast, "SCS": {"time_limit_secs": limit}}
    try:
        problem.solve(solver=solver, **options[solver])
    except cp.SolverError:  # out of time
        return float("nan")
    return float(square.value) ** 0.5 if problem.status == cp.OPTIMAL else float("nan")


def table(header: str, rows: list[str]) -> None:
    print(f"\n{header}\n" + "|---" * header.count(" | ") + "|---|", *rows, sep="\n", flush=True)


def one_network(widest: bool) -> None:
    rows = []
    for width in (64, 256, 1024, *((65536,) if widest else ())):
        epochs = 1 if width > 2048 else 30
        weights = [w[0] for w in trained([40, width, 10], models=1, epochs=epochs)]
        took, value = seconds(lambda w=weights: lipsdp(w), 3)
        lower = dual_lower_bound(weights)
        rows.append(
            f"| {width} | {took:.3f} | {float(value):.4f} | {float(value) / lower - 1:.1e} |"
        )
    table("| width | seconds | upper_lipsdp | proven excess |", rows)


def study() -> None:
    rows, total = [], 0.0
    for width in WIDTHS:
        weights = trained([40, width, 10], models=30, epochs=10)
        took, _ = seconds(lambda w=weights: lipsdp(w), 3)
        total += 12 * took
        rows.append(f"| {width} | {1e3 * took / 30:.1f} |")
    rows.append(f"| all, core-seconds for 4,320 checkpoints | {total:.0f} |")
    table("| width | ms per checkpoint, stack of 30 |", rows)


def deep_stacks(models: int) -> None:
    rows = []
    for width in (8, 24, 48, 96, 192):
        count = min(models, max(2, 1500 // width))
        weights = trained([40, width, width, 10], models=count, epochs=40)
        took, value = seconds(lambda w=weights: lipsdp(w), 3)
        some = [w[:2] for w in weights]
        excess = float((value[:2] / lipsdp(some, tolerance=1e-5, max_steps=200) - 1).mean())
        rows.append(f"| {width} | {count} | {1e3 * took / count:.1f} | {excess:.1e} |")
    table("| width, twice | networks | ms a network | excess |", rows)


def against(solver: str, width: int, limit: float) -> None:
    weights = [w[0] for w in trained([40, width, 10], models=1, epochs=30)]
    ours, value = seconds(lambda: lipsdp(weights), 5)
    theirs, reference = seconds(lambda: sdp(weights, solver, limit), 1)
    row = f"| {width} | {ours:.4f} | {float(value):.5f} | {theirs:.1f} | {reference:.5f} |"
    header = f"| width | seconds | upper_lipsdp | {solver}, seconds | value (uncertified) | ratio |"
    table(header, [f"{row} {theirs / ours:.0f} |"])


def deep() -> None:
    rows = []
    for sizes in ([40, 64, 64, 64, 10], [10, 12, 12, 12, 4]):
        weights = [w[0] for w in trained(sizes, models=1, epochs=100)]
        took, value = seconds(lambda w=weights: lipsdp(w), 3)
        tight = float(lipsdp(weights, tolerance=1e-6, max_steps=200))
        reference = f"{sdp(weights, 'CLARABEL', 600.0):.5f}" if sizes[1] < 20 else "-"
        name = "-".join(map(str, sizes))
        rows.append(f"| {name} | {took:.2f} | {float(value):.5f} | {tight:.5f} | {reference} |")
    table("| network | seconds | upper_lipsdp | at tolerance 1e-6 | Clarabel |", rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag in ("widest", "study", "stacks", "clarabel", "scs", "no-tables"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a solver")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not wanted.no_tables:
        one_network(wanted.widest)
        deep()
    if wanted.study:
        study()
    if wanted.stacks:
        deep_stacks(30)
    if wanted.clarabel:
        against("CLARABEL", 64, wanted.limit)
    if wanted.scs:
        against("SCS", 512, wanted.limit)


if __name__ == "__main__":
    main()
