"""What docs_sources.py takes from the studies of 1-Lipschitz classification (Béthune et al.).

Every function gives its tables, what was ``found`` in a sentence, and the ``verdict`` on the
paper's statement, which the numbers decide.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import checkout  # noqa: F401
import numpy as np
import pandas as pd

from lipdescent.analysis import ladder
from lipdescent.analysis.groups import Group
from lipdescent.analysis.loading import load
from lipdescent.comparisons import _lines
from lipdescent.figures import _side_by_side as side_by_side

LOSSES = {
    "cross_entropy": "cross-entropy, tau",
    "hinge": "hinge, margin",
    "hkr": "hKR, alpha (margin 0.5)",
}


def _groups(study: Path) -> dict[str, Group]:
    return {name: group for (_, name), group in load(study).items()}


def _verdict(holds: bool) -> str:
    return "agrees" if holds else "**differs**"


def _range(values: np.ndarray, form: str) -> str:
    """Mean and range over the seeds."""
    ends = [form.format(end) for end in (values.min(), values.max())]
    return f"{form.format(values.mean())} ({' to '.join(ends)})"


def _accuracies(group: Group, kind: str) -> dict[float, np.ndarray]:
    """Radius -> every seed's accuracy at the last epoch."""
    found = side_by_side.over_radius(group, f"{kind}_accuracy", "l2")
    return {radius: values[-1, 0, -1] for radius, values in found.items()}


def pareto_front(study: Path) -> dict[str, object]:
    """Accuracies of every loss over its option; whether an attack beats a certificate."""
    texts: dict[str, object] = {}
    lines = _lines.lines(_groups(study))
    beaten = checked = 0
    trades, ends = {}, {}
    for name, line in lines.items():
        options = [f"{group.point[_lines.first_axis(group)]:g}" for group in line]
        kinds = [(_accuracies(g, "certified"), _accuracies(g, "pgd")) for g in line]
        rows = [["accuracy", *(_range(attacked[0.0], "{:.3f}") for _, attacked in kinds)]]
        for radius in [radius for radius in kinds[0][0] if radius]:
            for told, place in ((f"certified at {radius:g}", 0), (f"PGD at {radius:g}", 1)):
                rows.append([told, *(_range(both[place][radius], "{:.3f}") for both in kinds)])
        for certified, attacked in kinds:
            for radius, share in certified.items():
                beaten += int((share > attacked[radius]).sum())
                checked += len(share)
        texts[name] = {"header": [LOSSES[name], *options], "rows": rows}
        ends[name], trades[name] = _trade(options, kinds)
    texts["found"] = "; ".join(
        f"{LOSSES[name].split(' (')[0]}: {', '.join(best)}" for name, best in ends.items()
    )
    told = {
        word: ", ".join(LOSSES[n].split(",")[0] for n, trade in trades.items() if trade is holds)
        for word, holds in ((_verdict(True), True), (_verdict(False), False))
    }
    texts["verdict"] = "; ".join(f"{word}: {names}" for word, names in told.items() if names)
    texts["attacks"] = f"{checked - beaten} of {checked}"
    texts["attacks_verdict"] = _verdict(beaten == 0)
    return texts


def _trade(options: list[str], kinds: list[tuple[dict, dict]]) -> tuple[list[str], bool]:
    """Best options for accuracy and for certificates; whether each costs the other.

    It does where the ranges over the seeds lie apart, in both.
    """
    most = max(kinds[0][0])
    columns = {
        "accuracy": [attacked[0.0] for _, attacked in kinds],
        f"certified at {most:g}": [certified[most] for certified, _ in kinds],
    }
    best = {what: int(np.argmax([v.mean() for v in seeds])) for what, seeds in columns.items()}
    told = [
        f"{what} best ({columns[what][place].mean():.3f}) at {options[place]}"
        for what, place in best.items()
    ]
    (clean, safe), (first, second) = best.values(), columns.values()
    apart = first[clean].min() > first[safe].max() and second[safe].min() > second[clean].max()
    return told, bool(apart)


def koch_snowflakes(study: Path) -> dict[str, object]:
    """Errors and gradient norms of every kind of network, over the seeds."""
    frame = pd.read_csv(study / "experiments/koch_snowflakes.csv", low_memory=False)
    frame = frame[frame["what"] == "network"]
    columns = {
        "mean error": ("mean_error", "{:.4f}"),
        "largest error": ("largest_error", "{:.3f}"),
        "points on their side": ("accuracy", "{:.3f}"),
        "median gradient norm": ("median_gradient", "{:.3f}"),
        "5 % quantile": ("low_gradient", "{:.3f}"),
    }
    rows, errors = [], {}
    for kind, part in frame.groupby("network", sort=False):
        cells = [_range(part[c].to_numpy(), form) for c, form in columns.values()]
        rows.append([str(kind), *cells])
        errors[str(kind)] = part["mean_error"].to_numpy()
    assert (frame["certified_constant"] <= 1).all()
    assert (frame["largest_gradient"] <= 1 + 1e-9).all()
    best, sides, relu = (errors[k] for k in ("MaxMin, distance", "MaxMin, sides", "ReLU, distance"))
    found = (
        f"mean error {_range(best, '{:.4f}')} fitted to the distance, {_range(sides, '{:.4f}')} "
    )
    found += f"from the sides alone, {_range(relu, '{:.4f}')} with ReLU"
    holds = best.max() < relu.min() and sides.max() < 0.05
    verdict = (
        "in part: to a mean error below an edge, not the finer edges; MaxMin nearer than ReLU in "
        "every seed"
    )
    texts = {"found": found, "verdict": verdict if holds else _verdict(holds)}
    return texts | {"errors": {"header": ["network", *columns], "rows": rows}}


def consistency(study: Path) -> dict[str, object]:
    """Train and test loss over the size of the training set."""
    lines = _lines.lines(_groups(study), axis="num_train")
    rows, gaps, largest = [], {}, 0.0
    for name, line in lines.items():
        cells, gaps[name] = [], []
        for group in line:
            train, test = (
                ladder.metric(group, f"{split}_loss")[-1, 0, -1] for split in ("train", "test")
            )
            gaps[name].append((test - train).mean())
            cells.append(
                f"{train.mean():.3g} / {test.mean():.3g}, {_range(test - train, '{:.2g}')}"
            )
            if group.architecture == "lipschitz":
                largest = max(largest, float(np.nanmax(ladder.best(group, "upper", "l2"))))
        rows.append(
            [name.replace("lipschitz", "1-Lipschitz").replace("mlp", "unconstrained"), *cells]
        )
    assert largest <= 1
    header = ["train / test loss, gap", *(f"{g.point['num_train']:,} images" for g in line)]
    own = {name: gap for name, gap in gaps.items() if name.startswith("lipschitz")}
    shrink = [gap[0] / gap[-1] for gap in own.values()]
    found = ", ".join(
        f"{name.split(', ')[1]}: {gap[0]:.2g} to {gap[-1]:.2g}" for name, gap in own.items()
    )
    falls = all(a > b for gap in own.values() for a, b in itertools.pairwise(gap))
    texts = {
        "found": f"gap at 1 and at 100 % of the images: {found}",
        "verdict": _verdict(falls and min(shrink) > 2),
    }
    return texts | {"losses": {"header": header, "rows": rows}}


def layer_norms(study: Path) -> dict[str, object]:
    """Norms of every layer where the mean test loss is least, and at the last epoch."""
    rows, holds, told = [], True, []
    for group in _groups(study).values():
        optimizer = str(group.point["optimizer"])
        loss = np.exp(np.log(ladder.metric(group, "test_loss")[-1, 0]).mean(-1))
        best = int(loss.argmin())
        epochs = f"{group.epoch[best]} to {group.epoch[-1]}"
        losses = f"{loss[best]:.2f} to {loss[-1]:.2f}"
        rows.append([optimizer, epochs, "test loss", losses])
        for kind, what in (("frobenius", "Frobenius"), ("spectral", "spectral")):
            for key, values in group.series.items():
                start = f"layer_{kind}_norm@"
                if key.quantity.startswith(start):
                    here, last = values[-1, 0, best], values[-1, 0, -1]
                    layer = key.quantity.removeprefix(start).removesuffix(".weight")
                    change = f"{_range(here, '{:.2f}')} to {_range(last, '{:.2f}')}"
                    rows.append(["", "", f"{what} norm, layer {layer}", change])
                    holds &= bool((last > here).all())
        holds &= loss[-1] > loss[best]
        told.append(f"{optimizer}: from epoch {group.epoch[best]} on the test loss rises, {losses}")
    found = "; ".join(told)
    found += ", both norms of every layer grow on" if holds else ", not all norms grow on"
    header = ["optimiser", "epochs", "what", "from the turn to the last epoch"]
    verdict = "agrees as far as seen: they grow to the last epoch; whether without end is not seen"
    texts: dict[str, object] = {"found": found, "verdict": verdict if holds else _verdict(False)}
    return texts | {"norms": {"header": header, "rows": rows}}


def margin_class(study: Path) -> dict[str, object]:
    """Margins with all labels of n points; points that a margin allows."""
    frame = pd.read_csv(study / "experiments/margin_class.csv")
    made, asked = (frame[frame["what"] == what] for what in ("construction", "margin"))
    nets = frame[frame["what"] == "network"].groupby("num_points")
    rows = []
    for _, row in made.iterrows():
        part = nets.get_group(row["num_points"])
        assert (part["margin"] <= row["best"] * (1 + 1e-9)).all()
        trained = _range(part["margin"].to_numpy(), "{:.4f}")
        cells = [f"{row['num_points']:.0f}", f"{row['best']:.4f}", f"{row['margin']:.4f}"]
        rows.append([*cells, trained, _range(100 * part["fitted"].to_numpy(), "{:.0f}")])
    header = ["points", "L / (2 (n - 1))", "construction, all labels", "networks, all labels",
              "labels fitted to 90 % of it, %"]  # fmt: skip
    found = ", ".join(f"m = {r['margin']:g}: {r['num_points']:.0f}" for _, r in asked.iterrows())
    holds = bool(asked["shattered"].astype(bool).all() and not asked["one_more_fits"].any())
    holds &= bool((made["margin"] == made["best"]).all())
    texts: dict[str, object] = {"found": f"points shattered, L = 1: {found}; none more"}
    texts["verdict"] = _verdict(holds)
    return texts | {"margins": {"header": header, "rows": rows}}


def wasserstein_critic(study: Path) -> dict[str, object]:
    """Errors of the exact critic, of trained ones, and what is possible."""
    frame = pd.read_csv(study / "experiments/wasserstein_critic.csv")
    exact = frame[frame["what"] == "exact"].set_index("classifier")["error"]
    names = {"critic": "exact critic, sign at 0", "critic_best_threshold":
             "exact critic, best threshold", "bayes": "least error of any classifier"}  # fmt: skip
    rows = [[shown, f"{100 * exact[name]:.2f}", ""] for name, shown in names.items()]
    trained = frame[frame["what"] == "trained"]
    for (name, tau), part in trained.groupby(["classifier", "tau"], sort=False):
        shown = "critic, trained" if name == "critic" else f"cross-entropy, tau {tau:g}"
        distance = _range(part["distance"].to_numpy(), "{:.4f}") if name == "critic" else ""
        rows.append([shown, _range(100 * part["error"].to_numpy(), "{:.2f}"), distance])
    assert (trained["certified_constant"] <= 1).all()
    critic = trained[trained["classifier"] == "critic"]["error"]
    best = trained.groupby("tau")["error"].mean().min()
    found = f"{100 * critic.mean():.1f} % error where {100 * exact['bayes']:.2f} % is possible and "
    found += f"{100 * best:.2f} % reached by cross-entropy"
    holds = abs(critic.mean() - 0.1) < 0.005 and exact["bayes"] < 0.0065 and best < 0.01
    header = ["classifier", "error, %", "E_Q f - E_P f (W1 = 3.4)"]
    texts: dict[str, object] = {"found": found, "verdict": _verdict(bool(holds))}
    return texts | {"errors": {"header": header, "rows": rows}}


ALL = (pareto_front, koch_snowflakes, consistency, layer_norms, margin_class, wasserstein_critic)
