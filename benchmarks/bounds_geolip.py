"""upper_geolip, exact_enumeration and upper_local: seconds and gaps, beside cvxpy's solvers.

Networks 40-w-10 without biases, weights as torch initialises them, drawn by a fixed seed. Seconds
are CPU time of the process, with one thread for torch: other load on the machine counts little.
Medians of repetitions; solvers once. ``--table``: networks of the sizes of GeoLIP's table (study
geolip) beside Clarabel, which gets one logit, ``--limit`` seconds of the clock and ``--memory`` GB.

Run: python benchmarks/bounds_geolip.py [--quick] [--table] [--limit 600]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial

import checkout  # noqa: F401
import cpu_time
import cvxpy as cp
import docs_numbers
import numpy as np
import torch
from torch import Tensor

from lipdescent.architectures import mlp
from lipdescent.bounds import exact_enumeration, upper_geolip, upper_local
from lipdescent.bounds.geolip.natural import natural_sdp
from lipdescent.stacks.model_stack import ModelStack

HEADER = ["network", "ten logits here, s", "one of them", "Clarabel, one logit, s: value"]
WIDTHS = (4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128, 256, 512)  # of the default study


def networks(count: int, width: int, depth: int = 1, inputs: int = 40) -> ModelStack:
    module = mlp.build(width, input_shape=(inputs,), num_classes=10, depth=depth)
    generator = torch.Generator().manual_seed(width)
    state = {
        k: (2 * torch.rand(count, *v.shape, generator=generator) - 1) / v.shape[1] ** 0.5
        for k, v in module.state_dict().items()
    }
    return ModelStack(module, state, (inputs,))


def seconds(function: Callable[[], object], repetitions: int) -> float:
    function()  # the first call is the slowest
    return cpu_time.seconds(function, repetitions)[0]


def matrices(stack: ModelStack) -> Tensor:
    first, last = (stack.state[k].double() for k in ("0.weight", "2.weight"))
    slopes = (torch.tensor([s], dtype=torch.float64) for s in (0.0, 1.0))
    return upper_geolip.natural_matrix(first, last, *slopes)[0]


def solver(matrix: Tensor, name: str, limit: float = 1200.0) -> tuple[float, float]:
    """Seconds and value of the natural SDP of one logit; NaN: no solution within the limit."""
    b = matrix.numpy()
    n, h = b.shape
    x = cp.Variable((n + h, n + h), PSD=True)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(b, x[:n, n:]))), [cp.diag(x) == 1])
    limits = {"CLARABEL": {"time_limit": limit}, "SCS": {"time_limit_secs": limit}}
    start = time.process_time()
    try:
        value = problem.solve(solver=name, **limits[name])
    except cp.SolverError:
        value = None
    solved = problem.status == cp.OPTIMAL and value is not None
    return time.process_time() - start, float(value) if solved else float("nan")


def against_solvers(cases: list[tuple[int, str]], repetitions: int) -> None:
    print("\n## One logit in l_inf, tolerance 1e-6\n")
    print("| width | here, s | solver | solver, s | ratio | here / solver - 1 |")
    print("|---|---|---|---|---|---|")
    for width, name in cases:
        matrix = matrices(networks(1, width))[:, :1]
        mine = seconds(lambda m=matrix: natural_sdp(m, norm="linf", tolerance=1e-6), repetitions)
        upper, _ = natural_sdp(matrix, norm="linf", tolerance=1e-6)
        taken, value = solver(matrix[0, 0], name)
        excess = float(upper) / value - 1
        print(
            f"| {width} | {mine:.4f} | {name} | {taken:.2f} | {taken / mine:.0f} | {excess:.1e} |"
        )


def dual(weights: list[Tensor], limit: float) -> tuple[float, float]:
    """Seconds and value of the deep dual of one logit by Clarabel, as :func:`solver`."""
    sizes = [weights[0].shape[1], *(len(w) for w in weights[:-1])]
    total, row, column = sum(sizes), sizes[0], 0
    rows = np.zeros((total, total))
    for w in weights[:-1]:
        rows[row : row + len(w), column : column + w.shape[1]] = w.numpy()
        row, column = row + len(w), column + w.shape[1]
    m, c = cp.Variable(total), cp.Variable((1, 1))
    cross = cp.diag(m) @ rows
    e = np.zeros((total, 1))
    e[-weights[-1].shape[1] :, 0] = weights[-1][0].numpy()
    matrix = cp.bmat([[cp.diag(m) - (cross + cross.T) / 2, -e], [-e.T, c]])
    cost = (cp.sum(m[: sizes[0]]) + cp.sum(c)) / 2
    problem = cp.Problem(cp.Minimize(cost), [(matrix + matrix.T) / 2 >> 0, m >= 0])
    start = time.process_time()
    try:
        problem.solve(solver="CLARABEL", time_limit=limit)
    except cp.SolverError:
        return time.process_time() - start, float("nan")
    solved = problem.status == cp.OPTIMAL
    return time.process_time() - start, float(cost.value) if solved else float("nan")


def within(call: Callable[[], tuple[float, float]], *, limit: float, gigabytes: float) -> str:
    """Seconds and value of a call in a process of its own, or why there are none."""

    def work(pipe: multiprocessing.connection.Connection) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)
        pipe.send(call())

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    try:
        taken, value = ours.recv() if ours.poll(1.5 * limit) else (limit, float("nan"))
        return f"no solution in {taken:.0f}" if value != value else f"{taken:.2f}: {value:.6g}"
    except EOFError:  # it has ended without an answer
        return f"more than {gigabytes:g} GB"
    finally:
        process.kill()
        process.join()


def of_the_table(limit: float, gigabytes: float) -> list[list[str]]:
    """The table's networks, ten logits here; Clarabel on one of them."""
    print("\n## Sizes of GeoLIP's table, l_inf, tolerance 1e-4\n")
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    rows = []
    sizes = [(inputs, w, 1) for inputs in (40, 784) for w in (8, 16, 64, 128, 256)]
    sizes += [(10, 12, 3), *((784, 64, depth) for depth in (3, 7, 8))]
    for inputs, width, depth in sizes:
        stack = networks(1, width, depth, inputs)
        taken = seconds(lambda s=stack: upper_geolip.per_logit(s), 1)
        value = float(upper_geolip.per_logit(stack)[0, 0])
        weights = [w[0].double() for w in stack.state.values()]
        weights[-1] = weights[-1][:1]
        if depth == 1:
            call = partial(solver, matrices(stack)[0, 0], "CLARABEL", limit)
        else:
            call = partial(dual, weights, limit)
        theirs = within(call, limit=limit, gigabytes=gigabytes)
        name = f"{inputs}-{'-'.join([str(width)] * depth)}-10"
        rows.append([name, f"{taken:.2g}", f"{value:.6g}", theirs])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    return rows


def one_network(widths: tuple[int, ...], repetitions: int) -> None:
    print("\n## One network, ten logits, tolerance 1e-4\n")
    print("| width | l_inf, s | largest gap | whole map only, s | l2 per logit, s | largest gap |")
    print("|---|---|---|---|---|---|")
    for width in widths:
        stack = networks(1, width)
        cells = []
        for norm in ("linf", "l2"):
            upper, value = natural_sdp(matrices(stack), norm=norm)
            gap = float((upper / value - 1).max())
            taken = seconds(lambda n=norm, s=stack: upper_geolip.per_logit(s, norm=n), repetitions)
            cells.append((taken, gap))
        whole = seconds(lambda s=stack: list(upper_geolip.measure(s)), repetitions)
        (linf, gap), (l2, gap2) = cells
        print(f"| {width} | {linf:.4f} | {gap:.1e} | {whole:.4f} | {l2:.4f} | {gap2:.1e} |")


def study(models: int, repetitions: int) -> None:
    print(f"\n## Every checkpoint of the default study, from {models} networks per width\n")
    print("| tolerance | ms per checkpoint, w = 4 / 64 / 512 | 13 widths x 360, s |")
    print("|---|---|---|")
    for tolerance in (1e-2, 1e-3, 1e-4):
        each = {}
        for width in WIDTHS:
            stack = networks(models, width)
            taken = seconds(
                lambda s=stack, t=tolerance: list(upper_geolip.measure(s, tolerance=t)), repetitions
            )
            each[width] = taken / models
        shown = " / ".join(f"{each[w] * 1e3:.2f}" for w in (4, 64, 512))
        print(f"| {tolerance:g} | {shown} | {360 * sum(each.values()):.0f} |")


def others(repetitions: int) -> None:
    points = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    print("\n## Others, one network\n")
    print("| what | s |")
    print("|---|---|")
    deep = networks(1, 64, depth=3)
    rows = {
        "upper_geolip 40-64-64-64-10, whole map, tolerance 1e-2": lambda: list(
            upper_geolip.measure(deep, tolerance=1e-2)
        ),
        "exact_enumeration 40-8-10, l2, both sides": lambda: exact_enumeration.fgl(networks(1, 8)),
        "exact_enumeration 40-32-10, l2": lambda: exact_enumeration.fgl(networks(1, 32)),
        "exact_enumeration 40-32-10, l_inf": lambda: exact_enumeration.fgl(
            networks(1, 32), norm="linf"
        ),
        "upper_local 40-64-10, l2, 16 points, radius .1": lambda: upper_local.local_bounds(
            networks(1, 64), points, radius=0.1
        ),
        "upper_local 40-64-10, l_inf, 16 points, radius .1": lambda: upper_local.local_bounds(
            networks(1, 64), points, radius=0.1, norm="linf"
        ),
    }
    for name, function in rows.items():
        print(f"| {name} | {seconds(function, repetitions):.3f} |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer widths and repetitions")
    parser.add_argument("--table", action="store_true", help="GeoLIP's table instead")
    parser.add_argument("--record", action="store_true", help="write the table into docs/")
    parser.add_argument("--machine", default="not said", help="what to record it is")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for Clarabel")
    parser.add_argument("--memory", type=float, default=4.0, help="GB for Clarabel")
    wanted = parser.parse_args(arguments)
    quick = wanted.quick
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if wanted.table:
        rows = of_the_table(wanted.limit, wanted.memory)
        if wanted.record:
            docs_numbers.record(
                "geolip_clarabel",
                command=f"python benchmarks/bounds_geolip.py --table --limit {wanted.limit:g}",
                machine=wanted.machine,
                repetitions="one, CPU seconds",
                texts={"table": {"header": HEADER, "rows": rows}},
            )
        return
    cases = [(8, "CLARABEL"), (16, "CLARABEL"), (32, "SCS")]
    cases += [] if quick else [(32, "CLARABEL"), (64, "SCS")]
    repetitions = 1 if quick else 5
    against_solvers(cases, repetitions)
    one_network((64, 512, 1024), repetitions)
    study(12 if quick else 36, 1 if quick else 3)
    others(1 if quick else 3)


if __name__ == "__main__":
    main()
