"""What docs_numbers.py writes of the GroupSort studies: tables, statements and their verdicts."""

from __future__ import annotations

from pathlib import Path

import checkout  # noqa: F401
import numpy as np
import pandas as pd

from lipdescent.analysis import ladder, statistics
from lipdescent.analysis.groups import Group
from lipdescent.analysis.loading import load
from lipdescent.figures import _side_by_side as side_by_side

Array = np.ndarray
NAMES = {
    "unconstrained": "unconstrained",
    "dropout": "dropout .3",
    "bjorck": "Björck, K = 3",
    "spectral": "spectral norm, K = 3",
    "l1_rows": "rows on the L1 ball, K = 10 (l_inf)",
    "parseval": "Parseval step",
    "jacobian_penalty": "Jacobian penalty",
    "pgd_trained": "PGD-trained (l_inf .05)",
}
STATEMENT = ["statement", "paper's number", "found", "verdict"]


def _groups(study: Path) -> dict[tuple, Group]:
    """(architecture, values of the further axes) -> group."""
    return {(g.architecture, *g.point.values()): g for g in load(study).values()}


def _seeds(values: Array) -> Array:
    """Of the one width, label noise and epoch of a study: (seeds,)."""
    return values[0, 0, -1]


def _told(values: Array, form: str = ".3f") -> str:
    """``0.812 (0.805 0.820)``: mean and range over the seeds (interval from four seeds on)."""
    whole = statistics.mean_estimate(np.asarray(values, dtype=float), confidence=0.95)
    value, low, high = (format(float(part), form) for part in whole)
    return f"{value} ({low} {high})"


def _verdict(above: Array, below: Array) -> str:
    """Whether one range lies above the other."""
    above, below = np.asarray(above), np.asarray(below)
    if above.min() > below.max():
        return "holds, ranges of the seeds apart"
    if above.mean() > below.mean():
        return "holds in the mean, ranges overlap"
    return "does not hold"


def _over_radius(group: Group, kind: str, norm: str) -> dict[float, Array]:
    found = side_by_side.over_radius(group, kind, norm)
    return {radius: _seeds(values) for radius, values in found.items()}


def groupsort_classification(study: Path) -> dict[str, object]:
    """Clean, certified and attacked accuracy of every constraint and activation; statements."""
    found = _groups(study)
    at = (("l2", 0.1), ("l2", 0.4), ("linf", 0.02))
    texts: dict[str, object] = {}
    for word in ("ReLU", "MaxMin", "FullSort"):
        rows = []
        for name, title in NAMES.items():
            group = found[name, word]
            cells = [title, _told(_seeds(ladder.metric(group, "test_accuracy")))]
            for norm, radius in at:
                pair = (
                    _over_radius(group, kind, norm)[radius].mean()
                    for kind in ("certified_accuracy", "pgd_accuracy")
                )
                cells.append(" / ".join(f"{value:.3f}" for value in pair))
            rows.append(cells)
        header = ["network", "clean", "certified / PGD, l2 .1", "l2 .4", "l_inf .02"]
        texts[word] = {"header": header, "rows": rows}
    texts["beaten"] = _beaten(found)
    return texts | {"statements": {"header": STATEMENT, "rows": _statements(found)}}


def _beaten(found: dict[tuple, Group]) -> str:
    """How many (network, norm, radius) have more certified than attacked points: none may."""
    pairs = beaten = 0
    for group in found.values():
        for norm in ("l2", "linf"):
            attacked = _over_radius(group, "pgd_accuracy", norm)
            for radius, certified in _over_radius(group, "certified_accuracy", norm).items():
                pairs += len(certified)
                beaten += int((certified > attacked[radius]).sum())
    assert not beaten
    return f"{beaten} of {pairs:,}"


def _statements(found: dict[tuple, Group]) -> list[list[str]]:
    """Of the classifiers, at two radii in l2 and one in l_inf."""

    def kept(kind: str, name: str, word: str, at: tuple[str, float]) -> Array:
        return _over_radius(found[name, word], f"{kind}_accuracy", at[0])[at[1]]

    rows = []
    for name, at in (("bjorck", ("l2", 0.1)), ("bjorck", ("l2", 0.4)), ("l1_rows", ("linf", 0.02))):
        sort, relu = (kept("certified", name, word, at) for word in ("MaxMin", "ReLU"))
        what = f"{NAMES[name]}: MaxMin certifies more points than ReLU, {at[0]} {at[1]:g}"
        rows.append([what, "", f"{_told(sort)} against {_told(relu)}", _verdict(sort, relu)])
    for radius in (0.1, 0.4):
        own, free = (
            kept("certified", name, "MaxMin", ("l2", radius))
            for name in ("bjorck", "unconstrained")
        )
        what = f"MaxMin: Björck certifies more points than no constraint, l2 {radius:g}"
        rows.append([what, "", f"{_told(own)} against {_told(free)}", _verdict(own, free)])
    at = ("linf", 0.02)
    hard, sure = (
        kept("pgd", "pgd_trained", "MaxMin", at),
        kept("certified", "l1_rows", "MaxMin", at),
    )
    none = kept("certified", "pgd_trained", "MaxMin", at)
    what = (
        f"MaxMin: a PGD-trained network keeps more points under attack than the l_inf network "
        f"certifies, l_inf {at[1]:g}, and certifies none"
    )
    verdict = _verdict(hard, sure) if none.max() == 0 else "does not hold: it certifies some"
    text = f"{_told(hard)} against {_told(sure)}; its own certified: {_told(none)}"
    return [*rows, [what, "", text, verdict]]


def generated_distances(study: Path) -> dict[str, object]:
    """Estimates by three activations relative to the exact distance, after the last step."""
    frame = pd.read_csv(study / "experiments/generated_distances.csv", low_memory=False)
    frame = frame[frame["task"] == "estimate"]
    assert (frame["estimate"] <= frame["exact"]).all()
    assert frame["constant"].max() <= 1
    last = frame[frame["step"] == frame["step"].max()]
    rows, statements = [], []
    for name, of in last.groupby("images", sort=False):
        title = str(name).replace("_", "-")
        ratio = {
            word: (part["estimate"] / part["exact"]).to_numpy()
            for word, part in of.groupby("activation", sort=False)
        }
        one = of[of["activation"] == "MaxMin"]
        exact, among = one["exact"].to_numpy(), one["among_images"].to_numpy()
        cells = [title, _told(exact), f"{among[0]:.3f}", *(_told(ratio[w]) for w in ratio)]
        rows.append(cells)
        for word in ("MaxMin", "FullSort"):
            what = f"{title}: a {word} critic estimates more than a ReLU critic"
            text = f"{_told(ratio[word])} against {_told(ratio['ReLU'])} of the exact distance"
            statements.append([what, "", text, _verdict(ratio[word], ratio["ReLU"])])
    header = ["images", "exact distance", "exact, among images"]
    header += [f"{w}: estimate / exact" for w in ("ReLU", "MaxMin", "FullSort")]
    return {
        "found": {"header": header, "rows": rows},
        "statements": {"header": STATEMENT, "rows": statements},
        "largest": f"{(frame['estimate'] / frame['exact']).max():.3f}",
        "count": f"{len(frame)}",
    }


def trained_gradients(study: Path) -> dict[str, object]:
    """Singular values before and after training, units that never switch, accuracy."""
    path = study / "experiments/trained_gradients.csv"
    frame = pd.read_csv(path, low_memory=False)
    names = {"none": "unconstrained", "spectral": "spectral norm", "bjorck": "Björck"}
    end, rows = frame["step"].max(), []
    for (constraint, word), of in frame[frame["step"] >= 0].groupby(
        ["constraint", "activation"], sort=False
    ):
        values = of[(of["task"] == "singular") & (of["step"] == end)]
        units = of[(of["task"] == "units") & (of["step"] == end)]
        ends = f"{values['smallest'].min():.2g} to {values['largest'].max():.3g}"
        if values["largest"].max() - values["smallest"].min() < 1e-6:
            ends = f"1 - {1 - values['smallest'].min():.0e} to 1"
        middle = f"{values['median'].median():.2g}" if len(ends) < 17 else ends
        share = _told(units["share"].to_numpy(), ".2f")
        accuracy = _told(units["accuracy"].to_numpy(), ".2f")
        rows.append([names[constraint], word, middle, ends, share, accuracy])
    header = ["weights", "activation", "singular values: median", "smallest to largest",
              "units that never switch", "test accuracy"]  # fmt: skip
    statements = _gradient_statements(frame[frame["step"] == end])
    return {
        "found": {"header": header, "rows": rows},
        "statements": {"header": STATEMENT, "rows": statements},
    }


def _gradient_statements(last: pd.DataFrame) -> list[list[str]]:
    def of(task: str, constraint: str, word: str) -> pd.DataFrame:
        keep = (last["constraint"] == constraint) & (last["activation"] == word)
        return last[keep & (last["task"] == task)]

    sorted_ = pd.concat([of("singular", "bjorck", word) for word in ("MaxMin", "FullSort")])
    away = max(1 - sorted_["smallest"].min(), sorted_["largest"].max() - 1)
    relu = of("singular", "bjorck", "ReLU")["median"]
    shares = {c: of("units", c, "ReLU")["share"].to_numpy() for c in ("none", "bjorck")}
    return [
        [
            "Björck and sorting: every singular value is 1 after training",
            "all near 1 (figure)",
            f"largest distance from 1: {away:.0e}",
            "holds" if away < 1e-6 else "does not hold",
        ],
        [
            "Björck and ReLU: gradients lose norm",
            "",
            f"median {_told(relu.to_numpy())}",
            "holds" if relu.max() < 1 else "does not hold",
        ],
        [
            "ReLU units of constrained networks are active on nearly all inputs (undead) more "
            "often than those of unconstrained ones",
            "",
            f"{_told(shares['bjorck'])} against {_told(shares['none'])}",
            _verdict(shares["bjorck"], shares["none"]),
        ],
    ]


def groupsort_small_data(study: Path) -> dict[str, object]:
    """Test accuracy from 30 and 100 images of every class."""
    found = _groups(study)
    rows = []
    for name in ("unconstrained", "dropout", "bjorck", "spectral", "parseval"):
        accuracies = [
            _told(_seeds(ladder.metric(found[name, count, word], "test_accuracy")))
            for count in (300, 1000)
            for word in ("ReLU", "MaxMin")
        ]
        rows.append([NAMES[name], *accuracies])
    header = ["network", "30, ReLU", "30, MaxMin", "100, ReLU", "100, MaxMin"]
    statements = []
    for count in (300, 1000):
        own, free = (
            _seeds(ladder.metric(found[name, count, "MaxMin"], "test_accuracy"))
            for name in ("bjorck", "unconstrained")
        )
        what = f"{count // 10} images a class: Björck and MaxMin classify better than unconstrained"
        statements.append([what, "", f"{_told(own)} against {_told(free)}", _verdict(own, free)])
    return {
        "found": {"header": header, "rows": rows},
        "statements": {"header": STATEMENT, "rows": statements},
    }


def groupsort_margins(study: Path) -> dict[str, object]:
    """Accuracy, certified and attacked, over K at margin 1."""
    found = _groups(study)
    rows = []
    for name, norm, radius in (("bjorck", "l2", 0.1), ("l1_rows", "linf", 0.02)):
        for scale in (1, 3, 10, 30, 100):
            group = found[name, f"K{scale}"]
            accuracy = _told(_seeds(ladder.metric(group, "test_accuracy")))
            pair = [
                _told(_over_radius(group, kind, norm)[radius])
                for kind in ("certified_accuracy", "pgd_accuracy")
            ]
            first = f"{name.replace('_', ' ')}, {norm} {radius:g}" if scale == 1 else ""
            rows.append([first, f"{scale}", accuracy, *pair])
    header = ["network, radius", "K", "clean", "certified", "PGD"]
    return {"found": {"header": header, "rows": rows}}


SOURCES = (
    groupsort_classification,
    generated_distances,
    trained_gradients,
    groupsort_small_data,
    groupsort_margins,
)
