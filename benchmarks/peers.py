"""Bounds of other libraries beside this one's: value, seconds, and what a lower bound refutes.

Five questions on small networks of fixed seeds: the l2 constant of a shallow and of a deep chain,
of a chain with batch normalisation, of a network that is 1-Lipschitz by construction, the l_inf
constant of a logit, and the one in a ball. Peers: LipSDP and GeoLIP's SDP by cvxpy and Clarabel,
eclipse-nn (Xu & Sivaranjani 2024), auto_LiRPA's local Jacobian bounds (Shi et al. 2022; those are
in its repository, and not in the version 0.3 of the package index), deel-torchlip's networks, and
LiPopt's public code (Latorre et al. 2020; its folder ``old_code`` on PYTHONPATH, and Gurobi, whose
free licence takes 2,000 variables: about 31 inputs and units). What is not installed has a row that
says so.

"refuted": less than a lower bound that is proved here. Seconds are CPU time, one thread; of an own
bound the median of three. Run: OMP_NUM_THREADS=1 python benchmarks/peers.py [--limit 60]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import checkout  # noqa: F401
import cpu_time
import docs_numbers
import numpy as np
import torch
from bounds_geolip import solver as natural_by
from bounds_lipsdp import sdp
from machine import machine
from torch import Tensor, nn

from lipdescent.arithmetic import decimals
from lipdescent.bracketing.readable import readable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack

RADIUS = 0.1
HEADER = ["network", "who", "value", "seconds", "is it a bound?"]


class Question(NamedTuple):
    """What is asked, a lower bound of the answer, and who answers how."""

    asked: str
    lower: float
    answers: list[tuple[str, Callable[[], float]]]


def chain(*sizes: int, norm: bool = False, seed: int = 0) -> nn.Sequential:
    """Linear and ReLU, weights drawn as torch does; with batch normalisation before every ReLU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        layers = layers[:-2]
        for layer in layers:
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_var.uniform_(0.05, 0.2)
    kept = layers if norm else [x for x in layers if not isinstance(x, nn.BatchNorm1d)]
    return nn.Sequential(*kept).eval()


def own(model: nn.Module, size: int, name: str, norm: str = "l2", **options: object) -> float:
    """A bound of this library."""
    stack = ModelStack.from_modules([readable(model, (size,))[0]], (size,))
    inputs = options.pop("inputs", None) or {"normal": gaussian(size)}
    found = lookup.resolve("bounds", name).measure(stack, inputs=inputs, norms=[norm], **options)
    return float(next(iter(found)).values)


def gaussian(size: int, count: int = 512) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


def weights_of(model: nn.Module) -> list[Tensor]:
    return [layer.weight.detach() for layer in model.modules() if isinstance(layer, nn.Linear)]


def eclipse(model: nn.Module, method: str) -> float:
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    return float(LipConstEstimator(model=model).estimate(method))


def whole_space(limit: float) -> Iterator[Question]:
    for sizes in ((40, 32, 10), (10, 12, 12, 12, 4)):
        model, size = chain(*sizes), sizes[0]
        yield Question(
            f"{'-'.join(map(str, sizes))}, l2",
            max(own(model, size, name) for name in ("lower_ascent", "lower_search")),
            [
                ("upper_lipsdp", partial(own, model, size, "upper_lipsdp")),
                ("LipSDP, Clarabel", partial(sdp, weights_of(model), "CLARABEL", limit)),
                ("eclipse-nn, ECLipsE", partial(eclipse, model, "ECLipsE")),
                ("eclipse-nn, ECLipsE_Fast", partial(eclipse, model, "ECLipsE_Fast")),
                ("upper_eclipse_fast", partial(own, model, size, "upper_eclipse_fast")),
                ("upper_layer_product", partial(own, model, size, "upper_layer_product")),
            ],
        )


def batch_normalised(_limit: float) -> Iterator[Question]:
    model = chain(10, 16, 16, 4, norm=True)
    yield Question(
        "10-16-16-4 with batch normalisation, l2",
        own(model, 10, "lower_ascent"),
        [
            ("upper_lipsdp", partial(own, model, 10, "upper_lipsdp")),
            ("eclipse-nn, ECLipsE_Fast", partial(eclipse, model, "ECLipsE_Fast")),
        ],
    )


def by_construction(_limit: float) -> Iterator[Question]:
    try:
        from deel import torchlip
    except ImportError:
        yield Question("deel-torchlip, 10-32-32-4, l2", 0.0, [("deel-torchlip", _missing)])
        return
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        layers = [torchlip.SpectralLinear(10, 32), torchlip.GroupSort2()]
        layers += [torchlip.SpectralLinear(32, 32), torchlip.GroupSort2()]
        model = torchlip.Sequential(*layers, torchlip.SpectralLinear(32, 4))
        model(torch.zeros(1, 10))
        plain = model.vanilla_export().eval()
    yield Question(
        "deel-torchlip, 10-32-32-4, l2",
        own(plain, 10, "lower_jacobian"),
        [
            ("upper_layer_product", partial(own, plain, 10, "upper_layer_product")),
            ("deel-torchlip, by construction", lambda: 1.0),
        ],
    )


def _missing() -> float:
    raise ImportError


def of_a_logit(limit: float) -> Iterator[Question]:
    model = chain(10, 10, 1)
    first, last = (w.double() for w in weights_of(model))
    entries = last[0] * first.mT
    matrix = torch.cat([entries / 2, entries.sum(1, keepdim=True) / 2], 1)
    yield Question(
        "10-10-1, l_inf",
        own(model, 10, "lower_ascent", "linf"),
        [
            ("exact_enumeration", partial(own, model, 10, "exact_enumeration", "linf")),
            ("upper_geolip", partial(own, model, 10, "upper_geolip", "linf")),
            ("GeoLIP, Clarabel", lambda: natural_by(matrix, "CLARABEL", limit)[1]),
            ("LiPopt, degree 2", partial(lipopt, [first, last])),
            ("upper_layer_product", partial(own, model, 10, "upper_layer_product", "linf")),
        ],
    )


def lipopt(weights: list[Tensor]) -> float:
    """Its linear programme of degree 2 with slopes in [0, 1] everywhere, as ReLU's."""
    import gurobipy  # noqa: F401  # LiPopt asks for it late
    import old_code

    layers = [w.numpy() for w in weights]
    network = old_code.FullyConnected(layers, [None] * len(layers))
    g, low, high = network.new_krivine_constr(p=1)
    size = layers[0].shape[1]
    sizes = (size, *(len(w) for w in layers))
    found, *_ = old_code.KrivineOptimizer.new_maximize_serial(
        network.grad_poly, g, lb=low, ub=high, deg=len(layers),
        start_indices=network.start_indices, layer_config=sizes, solver="gurobi", name="",
    )  # fmt: skip
    return float(found.objVal)


def in_a_ball(_limit: float) -> Iterator[Question]:
    model = chain(20, 32, 32, 5)
    centre = gaussian(20, 1)
    generator = torch.Generator().manual_seed(2)
    inside = centre + RADIUS * (2 * torch.rand(2000, 20, generator=generator) - 1)
    ball = {"radius": RADIUS, "norm": "linf"}
    at_centre = {"inputs": {"centre": centre}}
    yield Question(
        f"20-32-32-5, l_inf, ball of radius {RADIUS:g}",
        own(model, 20, "lower_jacobian", "linf", inputs={"ball": inside}),
        [
            ("upper_graph", lambda: own(model, 20, "upper_graph", "linf", domain={"ball": ball},
                                        **at_centre)),
            ("upper_local", lambda: own(model, 20, "upper_local", "linf", radius=RADIUS,
                                        **at_centre)),
            ("auto_LiRPA, Jacobian", partial(lirpa, model, centre)),
            ("upper_geolip, whole space", partial(own, model, 20, "upper_geolip", "linf")),
        ],
    )  # fmt: skip


def lirpa(model: nn.Module, centre: Tensor) -> float:
    """Largest bound of a logit's gradient in l1, as auto_LiRPA's own example takes it."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
    from auto_LiRPA.jacobian import GradNorm, JacobianOP

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.norm = copy.deepcopy(model), GradNorm(norm=1)

        def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
            return self.norm(JacobianOP.apply(self.model(x).matmul(chosen), x))

    outputs = model(centre).shape[1]
    chosen = torch.eye(outputs)[:, :1]
    bounded = BoundedModule(Slope(), (BoundedTensor(centre), chosen))
    ball = BoundedTensor(centre, PerturbationLpNorm(norm=np.inf, eps=RADIUS))
    found = [
        bounded.compute_jacobian_bounds((ball, torch.eye(outputs)[:, k : k + 1]), bound_lower=False)
        for k in range(outputs)
    ]
    return max(float(upper.detach()) for _, upper in found)


def row(asked: str, lower: float, who: str, answer: Callable[[], float]) -> list[str]:
    """Cells of an answer; own bounds are rounded up, peers' values are as they are."""
    is_own = who.split(",")[0] in lookup.known("bounds")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            spent, value = cpu_time.seconds(answer, 3 if is_own else 1)
    except ImportError:
        return [asked, who, "not installed", "", ""]
    except Exception as error:  # a peer's fault is a result, too
        return [asked, who, f"fails: {type(error).__name__}", "", ""]
    if not np.isfinite(value):
        return [asked, who, "no solution within the limit", f"{spent:.2g}", ""]
    shown = decimals.at_most(value, ".5g") if is_own else f"{value:.5g}"
    verdict = "certified" if is_own else "no proof; not refuted"
    if value < lower:
        verdict = f"REFUTED: the constant is at least {decimals.at_least(lower, '.5g')}"
    return [asked, who, shown, f"{spent:.2g}", verdict]


def rows(limit: float) -> Iterator[list[str]]:
    for part in (whole_space, batch_normalised, by_construction, of_a_logit, in_a_ball):
        for question in part(limit):
            low = decimals.at_least(question.lower, ".5g")
            yield [question.asked, "best lower bound", low, "", "certified"]
            for who, answer in question.answers:
                yield row(question.asked, question.lower, who, answer)


def renewed(stored: list[list[str]], part: str, limit: float) -> list[list[str]]:
    """The stored rows with those of this library's bounds in one part taken anew."""
    fresh, asked = {}, ""
    for question in globals()[part](limit):
        for who, answer in question.answers:
            if who.split(",")[0] in lookup.known("bounds"):
                fresh[question.asked, who] = row("", question.lower, who, answer)
    found = []
    for cells in stored:
        asked = cells[0] or asked
        found.append([cells[0], *fresh.get((asked, cells[1]), cells)[1:]])
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a solver")
    parser.add_argument("--record", action="store_true", help="write the table into docs/")
    parser.add_argument(
        "--own",
        metavar="PART",
        help="of in_a_ball, say: take this library's rows anew, record them",
    )
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if wanted.own:
        stored = json.loads((docs_numbers.NUMBERS / "peers.json").read_text())
        stored["texts"]["table"]["rows"] = renewed(
            stored["texts"]["table"]["rows"], wanted.own, wanted.limit
        )
        del stored["date"]
        docs_numbers.record("peers", **stored)
        return
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|", flush=True)
    found = []
    for cells in rows(wanted.limit):
        print(f"| {' | '.join(cells)} |", flush=True)
        found.append(cells)
    if wanted.record:
        for before, cells in zip(found[-2::-1], found[:0:-1], strict=True):
            cells[0] = "" if cells[0] == before[0] else cells[0]
        docs_numbers.record(
            "peers",
            command=f"python benchmarks/peers.py --limit {wanted.limit:g}",
            machine=machine(),
            repetitions="CPU seconds; own bounds: median of 3",
            texts={"table": {"header": HEADER, "rows": found}},
        )


if __name__ == "__main__":
    main()
