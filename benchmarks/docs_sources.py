"""What docs_numbers.py writes, taken from the results of the studies: one function per study.

A function gives key -> text, or key -> table (``header``, ``rows``) of cells as they are printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import groupsort_sources
import lipschitz_sources
import numpy as np
import pandas as pd
import tightness
import torch
from machine import machine

from lipdescent.analysis import groups, ladder, statistics
from lipdescent.analysis.loading import load
from lipdescent.arithmetic import decimals
from lipdescent.study.runs import runs_of

NOISE_COLUMNS = {
    "layer product": "layer product (upper)",
    "data maximum": "Jacobian (lower)",
    "LipSDP": "LipSDP (upper)",
}


def take_all(results: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every source whose study is in ``results``, and what docs_numbers.py stores of it."""
    torch.set_num_threads(1)
    for name, take in SOURCES.items():
        study = results / name
        if not (study / "provenance.json").is_file():
            continue
        more = {"means": means(study)} if name == "default" else {}
        about = {"command": command(name), "machine": machine(), "repetitions": "one run"}
        yield name, about | {"texts": take(study)} | more


def command(study: str) -> str:
    """What runs a study."""
    overlay = "" if study == "default" else f" --configfile config/studies/{study}.yaml"
    return f"snakemake --cores all{overlay}"


def means(study: Path) -> dict[str, list[float]]:
    """Geometric means over seeds with intervals so wide that all hold together (Bonferroni).

    Another processor rounds otherwise and training amplifies that: two runs of a study are two
    draws, and agree where all their intervals meet.
    """
    group = load(study)["mnist1d", "mlp"]
    found = {"test loss": ladder.metric(group, "test_loss"), "test error": ladder.test_error(group)}
    for norm in ladder.norms(group):
        for side in ("lower", "upper"):
            found[f"best {side}, {norm}"] = ladder.best(group, side, norm)
    noises = group.noise_ends
    count = len(found) * len(group.width) * len(noises)
    told = {}
    for name, values in found.items():
        whole = statistics.centre_estimate(values[:, :, -1], confidence=1 - 0.05 / count)
        for place, width in enumerate(group.width):
            for noise in noises:
                level = f"{100 * group.label_noise[noise]:g} %"
                cell = [float(part[place, noise]) for part in whole]
                told[f"{name}, width {width}, {level}"] = [float(f"{v:.6g}") for v in cell]
    return told


def default(study: Path) -> dict[str, object]:
    """The default study: three of its short sentences, its sizes, the CPU time of its jobs."""
    (facts,) = json.loads((study / "findings.json").read_text())["groups"]
    chosen = [facts["in_short"][place] for place in (0, 1, -1)]  # the peaks, and what goes together
    sentences = [f"- {item['text']} *{', '.join(item['badges'])}*" for item in chosen]
    logs = "".join(path.read_text() for path in (study / "logs").rglob("*.log"))
    seconds = sum(float(took) for took in re.findall(r"took ([\d.]+) CPU s", logs))
    texts = {"in_short": "\n" + "\n".join(sentences) + "\n", "cpu": f"{seconds:.0f} CPU seconds"}
    group = load(study)["mnist1d", "mlp"]
    ratio = ladder.best(group, "upper", "l2") / ladder.best(group, "lower", "l2")
    texts["upper_over_lower"] = _span(statistics.geometric_mean(ratio[:, :, -1]), "{:.3g}")
    return texts | _sizes(facts, study)


def one_hidden_layer(study: Path) -> dict[str, object]:
    """The study with nearly closed brackets: tightness, label noise, what sentences quote."""
    (facts,) = json.loads((study / "findings.json").read_text())["groups"]
    group = load(study)["mnist1d", "mlp"]
    told = tightness.rows(study, exact=12)
    texts: dict[str, object] = {
        key: {"header": tightness.HEADER, "rows": rows}
        for key, rows in zip(("tightness_least", "tightness_most"), told.values(), strict=True)
    }
    ends = [0, -1]  # least and most label noise
    lower, lipsdp, product = (
        values[:, ends, -1]
        for values in (
            ladder.best(group, "lower", "l2"),
            *(_rung(group, f"upper_{name}", "l2") for name in ("lipsdp", "layer_product")),
        )
    )
    texts["product_over_lower"] = _span(statistics.geometric_mean(product / lower), "{:.1f}")
    texts["lipsdp_over_lower"] = _span(statistics.geometric_mean(lipsdp / lower), "{:.4g}")
    maximum, geolip, loose = (
        _rung(group, name, "linf")[-1, :, -1]
        for name in ("lower_jacobian", "upper_geolip", "upper_layer_product")
    )
    texts["geolip_over_maximum"] = _span(statistics.geometric_mean(geolip / maximum), "{:.2f}")
    texts["linf_product"] = _span(statistics.geometric_mean(loose / maximum), "{:.0f}")
    sizes = _sizes(facts, study)
    kept = {key: sizes[key] for key in ("seeds", "networks", "checkpoints")}
    return texts | _label_noise(facts) | kept


def _label_noise(facts: dict) -> dict[str, object]:
    """Change of the l2 constant between the least and the most label noise, and sentences of it."""
    rows = facts["label_noise_effect"]["l2"]["widths"]
    cells, excluded = [], []
    for row in rows:
        low, high = row["ratio_at_least"], row["ratio_at_most"]
        trends = [row["trend"][name]["value"] for name in NOISE_COLUMNS.values()]
        factor = f"{decimals.at_least(low, '.2f')} to {decimals.at_most(high, '.2f')}"
        cells.append([str(row["width"]), factor, *(f"{value:.2f}" for value in trends)])
        excluded.append(not low <= trends[0] <= high)
    header = ["width", "the constant changes by a factor of", *NOISE_COLUMNS]
    falls = [row for row in rows if row["verdict"] == "falls"]
    over_seeds = [row for row in falls if row["verdict_over_seeds"] == "falls"]
    where = " and ".join(str(row["width"]) for row in falls)
    fall = (
        f"A fall is proved at width {where} for the networks trained, "
        f"{'and' if len(over_seeds) == len(falls) else 'not'} over their seeds"
        if falls
        else "A fall is proved at no width"
    )
    constant = facts["constant"]["l2"]
    peaks = [peak["value"] for peak in facts["test_loss"]["peak_width"]]
    width = facts["width"]
    steps = [
        min(abs(width.index(w) - width.index(p)) for w in found["can_peak_at"])
        for found, p in zip(constant, peaks, strict=True)
    ]
    assert max(steps) <= 1, "the constant's peak is not beside the test loss's: mend the sentence"
    return {
        "label_noise": {"header": header, "rows": cells},
        "excluded": f"{sum(excluded)} of {len(rows)}",
        "fall": fall,
        "constant_falls": decimals.at_least(min(c["falls_at_least"] for c in constant), ".2f"),
    }


def _sizes(facts: dict, study: Path) -> dict[str, str]:
    """Counts of the grid."""
    config = json.loads((study / "provenance.json").read_text())["config"]
    epochs = len(config["grid"]["epoch"])
    counts = {"widths": "width", "noises": "label_noise", "seeds": "seed"}
    return {key: str(len(facts[axis])) for key, axis in counts.items()} | {
        "networks": f"{facts['num_models']:,}",
        "checkpoints": f"{facts['num_models'] * epochs:,}",
        "measurements": str(1 + len(config["bounds"])),
        "figures": str(len(config["figures"])),
        "jobs": str(len(runs_of(config)) * (2 + len(config["bounds"]))
                    + len(config["figures"]) + 4),  # data, table, findings, provenance
    }  # fmt: skip


def _rung(group: groups.Group, name: str, norm: str) -> np.ndarray:
    return next(v for rung, v in ladder.rungs(group, norm).items() if rung.quantity == name)


def _span(values: np.ndarray, form: str) -> str:
    """``1.4 to 2.6``; one number where both ends read the same."""
    ends = [form.format(end) for end in (values.min(), values.max())]
    return " to ".join(dict.fromkeys(ends))


def two_points(study: Path) -> dict[str, object]:
    """Losses against their best ones, slopes of a gradient flow against the closed form."""
    frame = pd.read_csv(study / "experiments/two_points.csv")
    rows, losses, slopes = [], *(frame[frame["task"] == task] for task in ("loss", "slope"))
    for tau, part in losses.groupby("at"):
        best, excess = part["exact"].iloc[0], (part["value"] - part["exact"]).max()
        assert (part["value"] >= part["exact"] - 1e-15).all()
        value = f"{part['value'].median():.9f} (largest excess {excess:.0e})"
        rows.append([f"loss, tau = {tau:g}", f"{best:.9f}", value])
    shown = slopes[slopes["at"].isin([1, 10, 100, 1000])]
    off = (slopes["value"] - slopes["exact"]).abs().max()
    times = " / ".join(f"{time:g}" for time in shown["at"])
    exact = " / ".join(f"{value:.6f}" for value in shown["exact"])
    rows.append([f"W at t = {times}", exact, f"the same to {off:.0e}"])
    return {"found": {"header": ["quantity", "expected", "found"], "rows": rows}}


def isometry(study: Path) -> dict[str, object]:
    """Singular values of sorting networks and of ReLU over depth."""
    frame = pd.read_csv(study / "experiments/isometry.csv")
    rows = []
    for depth in (1, 2, 5, 12):
        part = frame[frame["depth"] == depth]
        relu, sorts = part[part["activation"] == "ReLU"], part[part["activation"] != "ReLU"]
        sorting = f"1 - {1 - sorts['smallest'].min():.1e}, 1 - {1 - sorts['largest'].max():.1e}"
        relu = f"{relu['median'].median():.2g}, {relu['largest'].max():.3g}"
        rows.append([str(depth), "1 +- 1e-4", sorting, relu])
    header = ["hidden layers", "expected of MaxMin, FullSort", "found: smallest, largest",
              "ReLU: median, largest"]  # fmt: skip
    return {"found": {"header": header, "rows": rows}}


def wasserstein(study: Path) -> dict[str, object]:
    """Estimates of three distances by three activations."""
    expected = {
        ("absolute_value", "ReLU"): "at most .70",
        ("absolute_value", "MaxMin"): "at least .99",
        ("three_cones", "ReLU"): "at most .65",
        ("three_cones", "FullSort"): "at least .97",
        ("high_dimensional_cone", "FullSort"): "at least .98",
    }
    shown = {"absolute_value": "absolute value", "three_cones": "three cones",
             "high_dimensional_cone": "cone in R^128"}  # fmt: skip
    frame = pd.read_csv(study / "experiments/wasserstein.csv")
    rows = []
    for task, name in shown.items():
        for activation in ("ReLU", "MaxMin", "FullSort"):
            found = frame[(frame["task"] == task) & (frame["activation"] == activation)]["estimate"]
            value = f"{found.median():.4f} ({found.min():.4f} {found.max():.4f})"
            first = name if activation == "ReLU" else ""
            rows.append([first, activation, expected.get((task, activation), ""), value])
    texts = {"found": {"header": ["task", "activation", "expected", "found"], "rows": rows}}
    return texts | {"largest": f"{frame['estimate'].max():.4f}"}


def temperature(study: Path) -> dict[str, object]:
    """Accuracy against radius or certified accuracy of every loss over its option, medians."""
    frame = pd.read_csv(study / "experiments/temperature.csv")
    middle = frame.groupby(["task", "loss", "option"], sort=False).median(numeric_only=True)
    expected = {
        1: (".895 to .905", "1.65 to 1.72"), 2: (".895 to .905", "falling"), 4: ("", "falling"),
    }  # fmt: skip
    rows = []
    for tau, found in middle.loc["mixture"].droplevel("loss").iterrows():
        accuracy, radius = expected.get(tau, ("at least .98", "falling"))
        cells = [f"{tau:g}", accuracy, f"{found['accuracy']:.3f}", radius]
        rows.append([*cells, f"{found['mean_radius']:.2f}"])
    header = ["tau", "accuracy: expected", "found", "mean signed radius: expected", "found"]
    texts: dict[str, object] = {"mixture": {"header": header, "rows": rows}}
    moons = middle.loc["moons"].sort_index(level="option")
    for key, form in (("accuracy", "{:.3f}"), ("mean_radius", "{:.2f}")):
        texts[f"moons_{key}"] = " / ".join(form.format(value) for value in moons[key])
    titles = {"cross_entropy": "cross-entropy, tau", "hinge": "hinge, margin",
              "hkr": "hKR, alpha (margin 1)"}  # fmt: skip
    for (loss, part), (key, title) in zip(
        middle.loc["fashion_mnist"].groupby(level="loss", sort=False), titles.items(), strict=True
    ):
        assert key.split("_")[0] in loss, (loss, key)
        part = part.droplevel("loss").sort_index()
        cells = [
            [name, *(f"{value:.3f}" for value in part[column])]
            for name, column in (("accuracy", "accuracy"), ("certified", "certified_accuracy"))
        ]
        header = [title, *(f"{option:g}" for option in part.index)]
        texts[key] = {"header": header, "rows": cells}
    return texts


def geolip(study: Path) -> dict[str, object]:
    """Bounds of every network in both norms, rounded outwards to four digits; seconds.

    ``NORM_logits`` are means over the logits, each a map to one number.
    """
    frame = pd.read_csv(study / "experiments/geolip.csv")
    frame = frame.astype({"logit": str}).sort_values(["depth", "width"], kind="stable")
    columns = {"sampling": "lower_jacobian", "enumeration": "exact_enumeration"}
    texts: dict[str, object] = {}
    for norm, name, sdp in (("linf", "GeoLIP", "upper_geolip"), ("l2", "LipSDP", "upper_lipsdp")):
        wanted = columns | {name: sdp, f"{name}, per layer": f"{sdp}_layer"}
        wanted |= {"product": "upper_layer_product"}
        tables: dict[str, list[list[str]]] = {"": [], "_logits": [], "_seconds": []}
        for (depth, width, training), found in frame[frame["norm"] == norm].groupby(
            ["depth", "width", "training"], sort=False
        ):
            cells = [str(width) if depth == 1 else f"{depth} x {width}", training]
            whole = found[found["logit"] == "all"].set_index("quantity")
            mean = found[found["logit"] != "all"].groupby("quantity")["value"].mean()
            seconds = [whole["seconds"].get(q) for q in wanted.values()]
            accuracy = [f"{found['accuracy'].iloc[0]:.3f}"] * (norm == "linf")
            values = whole["value"], mean
            shown, single = ([_outwards(q, v.get(q)) for q in wanted.values()] for v in values)
            tables[""].append([*cells, *accuracy, *shown])
            tables["_logits"].append([*cells, *single])
            tables["_seconds"].append(cells + ["" if s is None else f"{s:.2g}" for s in seconds])
        for kind, rows in tables.items():
            accuracy = ["accuracy"] * (norm == "linf" and not kind)
            header = ["network", "training", *accuracy, *wanted]
            texts[norm + kind] = {"header": header, "rows": rows}
        texts |= {f"{norm}_{key}": text for key, text in _ratios(frame, norm, sdp).items()}
    return texts


def _ratios(frame: pd.DataFrame, norm: str, sdp: str) -> dict[str, str]:
    """Of the whole map's bounds, smallest to largest over networks of one and of more layers."""
    whole = frame[(frame["norm"] == norm) & (frame["logit"] == "all")]
    wide = whole.pivot_table("value", ["depth", "width", "training"], "quantity")
    asked = {
        "over_enumeration": (sdp, "exact_enumeration"),
        "over_sampling": (sdp, "lower_jacobian"),
        "loss": (f"{sdp}_layer", sdp),
        "product": ("upper_layer_product", sdp),
    }
    found = {}
    for key, (above, below) in asked.items():
        if {above, below} <= set(wide):
            ratio = (wide[above] / wide[below]).dropna()
            deep = ratio.index.get_level_values("depth") > 1
            for place, part in (("shallow", ratio[~deep]), ("deep", ratio[deep])):
                if len(part):
                    found[f"{key}_{place}"] = f"{part.min():.4g} to {part.max():.4g}"
    return found


def _outwards(quantity: str, value: float | None) -> str:
    if value is None:
        return ""
    side = decimals.at_least if quantity.startswith("lower") else decimals.at_most
    return side(value, ".4g")


def random_labels(study: Path) -> dict[str, object]:
    """Which widths fit labels that are all random, medians over seeds; the largest constant."""
    fits = {}
    for (_, name), group in load(study).items():
        accuracy = np.median(ladder.metric(group, "train_accuracy")[:, -1, -1], axis=-1)
        told = [f"{100 * a:.0f} % at {w}" for w, a in zip(group.width, accuracy, strict=True)]
        fits["lipschitz" if "lipschitz" in name else "free"] = ", ".join(told)
        if "lipschitz" in name:
            largest = float(np.nanmax(ladder.best(group, "upper", "l2")))
    assert largest <= 1
    rows = [
        ["train accuracy on fully random labels, 1-Lipschitz, at widths", "they fit",
         ">= 99 % train accuracy at some width", fits["lipschitz"]],
        ["the same, unconstrained", "it fits", "yes", fits["free"]],
        ["largest certified upper bound of the 1-Lipschitz networks", "1",
         "at most 1, rounding included", f"1 - {1 - largest:.1e}"],
    ]  # fmt: skip
    return {"found": {"header": ["", "paper", "expected", "found"], "rows": rows}}


def distance_preservation_images(study: Path) -> dict[str, object]:
    """Low-band values, certified constants and what bounds say of every kind of network."""
    frame = pd.read_csv(study / "experiments/distance_preservation_images.csv")
    kinds = {"none": "one resolution", "average": "average pools", "strided": "strided"}
    sets = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
    texts: dict[str, object] = {}
    rows, silent = [], []
    for (dataset, down), part in frame.groupby(["dataset", "downsampling"], sort=False):
        for c, own in sorted(part.groupby("c"), key=lambda item: item[0] or np.inf):
            kept = own["dft_worst_ratio"] <= KEPT
            says = (own["textbook_certified"] > 0) | (own["low_band_certified"] > 0)
            allowed = f"{own['k_allowed'].iloc[0]:.4g}" if c else "any"
            told = [f"{(own['k'] < 1).sum()}", f"{says.sum()}", f"{kept.sum()}"]
            silent.append((kept & ~says, own["k"] >= 1))
            rows.append([
                sets[dataset], kinds[down], f"{c:g}" if c else "plain", allowed,
                _interval(own["k"], geometric=True), _interval(own["dft_smallest"]),
                _interval(1 / own["dft_worst_ratio"]),
                *(f"{n} of {len(own)}" for n in told), _interval(own["accuracy"]),
            ])  # fmt: skip
    header = [
        "", "network", "c", "k allowed", "largest k certified", "smallest low-band value",
        "smallest / largest", "k < 1", "a bound says something", "kept", "accuracy",
    ]  # fmt: skip
    texts["found"] = {"header": header, "rows": rows}
    kept_silent, large = (np.concatenate([s[i] for s in silent]) for i in (0, 1))
    texts["silent"] = f"{kept_silent.sum()} of {len(frame)}"
    texts["large"] = f"{large.sum()} of {len(frame)}"
    seconds = frame.groupby(["dataset", "downsampling", "width", "c"])["seconds"].first()
    ratio = seconds.unstack("c").pipe(lambda of: of.div(of[0.0], axis=0)).drop(columns=0.0)
    texts["slower"] = _span(ratio.to_numpy(), "{:.1f}")
    blind = frame[frame["full_smallest"] == 0]
    texts["blind"] = f"{len(blind)} of {(frame['downsampling'] != 'none').sum()}"
    texts["counter"] = f"{blind['counter_ratio'].median():.0e}"
    texts["band_energy"] = " and ".join(
        f"{100 * _low_band_share(part):.1f} % ({sets[name]})"
        for name, part in blind.groupby("dataset", sort=False)
    )
    one = frame[(frame["textbook_certified"] > 0) | (frame["low_band_certified"] > 0)]
    assert (one["textbook_certified"] <= one["full_smallest"]).all()
    assert (one["low_band_certified"] <= one["dft_smallest"]).all()
    texts["low_band"] = f"{(frame['low_band_certified'] > 0).sum()} of {len(frame)}"
    for key in ("textbook_certified", "textbook_allowed", "full_smallest"):
        digits = decimals.at_least if "smallest" not in key else decimals.at_most
        texts[key] = " to ".join(digits(v, ".2g") for v in (one[key].min(), one[key].max()))
    return texts


def _low_band_share(part: pd.DataFrame) -> float:
    """Mean share of the energy of counter-examples at the DFT frequencies 0 and 1 of both axes."""
    names = [name for name in part if re.fullmatch(r"energy_\d+", name)]
    energies = part[names].dropna(axis="columns").to_numpy()
    side = round(energies.shape[1] ** 0.5)
    return float(energies.reshape(-1, side, side)[:, :2, :2].sum((1, 2)).mean())


# Distances are called kept where the low band's smallest value is a tenth of its largest or more,
# at every point looked at.
KEPT = 10


def distance_uncertainty(study: Path) -> dict[str, object]:
    """Areas under the ROC curve: plain, and how much more with layers of at most c."""
    frame = pd.read_csv(study / "experiments/distance_uncertainty.csv")
    texts: dict[str, object] = {}
    for dataset, whole in frame.groupby("dataset", sort=False):
        rows, areas = [], whole[whole["quantity"] == "area"]
        for (kind, amount), part in areas.groupby(["kind", "amount"], sort=False):
            rows.append([f"{kind} {amount:g}" if amount else kind, *_against_plain(part)])
        for quantity, score, name in (
            ("correlation", None, "Spearman's correlation with the distance"),
            ("accuracy", "features", "accuracy of the process"),
        ):
            part = whole[whole["quantity"] == quantity]
            part = part if score is None else part[part["score"] == score]
            rows.append([name, *_against_plain(part)])
        limits = [f"c = {c:g}: more by" for c in sorted(set(whole["c"])) if c]
        header = ["far inputs", "plain", *limits, "pixels", "entropy, plain"]
        texts[str(dataset)] = {"header": header, "rows": rows}
        cells = [cell for row in rows[:-2] for cell in row[2:-2]]
        texts[f"{dataset}_more"] = f"{sum('**+' in cell for cell in cells)} of {len(cells)}"
        texts[f"{dataset}_less"] = f"{sum('**-' in cell for cell in cells)} of {len(cells)}"
    return texts


def _against_plain(part: pd.DataFrame) -> list[str]:
    """Plain, differences of the same seeds, the pixels', the softmax's entropy; bold: not 0."""
    by = part.pivot_table(index="seed", columns=["score", "c"], values="value")
    features = by["features"]
    cells = [_interval(features[0.0])]
    for c in sorted(c for c in features if c):
        each = (features[c] - features[0.0]).to_numpy()
        middle, low, high = statistics.mean_estimate(each, confidence=0.95)
        sure = "**" if low > 0 or high < 0 else ""
        cells.append(f"{sure}{middle:+.3f}{sure} ({low:+.3f} {high:+.3f})")
    others = [by[score][0.0] if score in by else None for score in ("pixels", "entropy")]
    return cells + ["" if own is None else _interval(own) for own in others]


def _interval(values: pd.Series, *, geometric: bool = False) -> str:
    """Mean over seeds, arithmetic or geometric, and its 95 % interval."""
    middle, low, high = statistics.mean_estimate(
        values.to_numpy(), confidence=0.95, geometric=geometric
    )
    return f"{middle:.3g} ({low:.3g} {high:.3g})"


def any_forward_small(study: Path) -> dict[str, object]:
    """Every architecture's bounds at the widest and last, and how many checkpoints have both."""
    table = pd.read_parquet(study / "table.parquet")
    table["split"] = table["split"].astype(str)
    known = table[table.direction.isin(["lower", "upper"]) & (table.status == "ok")]
    cell = ["architecture", "width", "label_noise", "seed", "epoch"]
    sides = known.groupby(cell, observed=True).direction.nunique()
    last = table[(table.width == table.width.max()) & (table.epoch == table.epoch.max())]
    rows = []
    for name in dict.fromkeys(table.architecture):
        own = last[last.architecture == name]

        def value(quantity: str, own: pd.DataFrame = own) -> float | None:
            found = own[(own.quantity == quantity) & (own.status == "ok")].value
            return float(found.max()) if len(found) else None

        bounds = ("lower_jacobian", "upper_layer_product", "upper_graph")
        cells = [_outwards(bound, value(bound)) for bound in bounds]
        rows.append([f"`{name}`", f"{value('test_accuracy'):.2f}", *cells])
    header = ["architecture", "test accuracy", "lower: Jacobian", "layer product", "upper: graph"]
    return {
        "bounds": {"header": header, "rows": rows},
        "both": f"{int((sides == 2).sum())} of {table[cell].drop_duplicates().shape[0]}",
        "width": f"{table.width.max()}",
        "epoch": f"{table.epoch.max()}",
    }


SOURCES: dict[str, Callable[[Path], dict[str, object]]] = {
    function.__name__: function
    for function in (
        default,
        one_hidden_layer,
        two_points,
        isometry,
        wasserstein,
        temperature,
        random_labels,
        geolip,
        *groupsort_sources.SOURCES,
        *lipschitz_sources.ALL,
        distance_preservation_images,
        distance_uncertainty,
        any_forward_small,
    )
}
