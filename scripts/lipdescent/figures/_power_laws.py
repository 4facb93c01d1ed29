"""Parts of figures of power laws: curves with their lines, exponents with what is proved."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lipdescent.analysis import labels, ladder, slopes
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.slopes import Panel
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _style as style

JACOBIAN = {"color": "#777777", "marker": "*", "linestyle": "-."}
PROVED = {"color": "black", "linewidth": 3, "alpha": 0.6, "gid": "proved"}  # of the true constant
FILLS = (("least", "full"), ("most", "none"))  # of the exponents' markers, by label noise
EXPONENT: dict[str, Any] = {"color": "black", "marker": "o", "linestyle": "", "markersize": 4.5}


def looks(groups: Iterable[Group]) -> dict[str, dict]:
    """Name of every curve in l2 -> its colour, marker and dash."""
    listed = list(groups)
    rungs = style.rung_styles(rung for group in listed for rung in ladder.all_rungs(group))
    named = {name: rung for group in listed for name, rung in slopes.names(group, "l2").items()}
    return {name: JACOBIAN if rung is None else rungs[rung] for name, rung in named.items()}


def legend(figure: Figure, looks: Mapping[str, dict]) -> None:
    """Curves, then what is proved of the constant, and marks."""
    marks = {
        f"{which} noise": EXPONENT | {"fillstyle": fill, "gid": f"exponent, {fill}"}
        for which, fill in FILLS
    }
    entries = {**looks, "true constant (proved)": PROVED, **marks}
    drawing.legend(figure, entries, columns=4)


def rows(panels: Iterable[Panel]) -> list[list[Panel]]:
    """Panels that differ in label noise alone, together."""
    found: dict[tuple, list[Panel]] = {}
    for panel in panels:
        rest = (item for item in panel.at.items() if item[0] != "label_noise")
        found.setdefault((panel.axis, *rest), []).append(panel)
    return list(found.values())


def draw_row(
    row: Sequence[Axes],
    panels: Sequence[Panel],
    looks: Mapping[str, dict],
    *,
    title: Callable[[Panel], str],
    unit: str = "",
    diverged: NDArray[np.bool_],
) -> None:
    """Curves of one or two levels of label noise, and their exponents; ``unit`` is the width's."""
    for place, panel in zip(row, panels, strict=False):
        _curves(place, panel, looks, diverged)
        place.set_title(title(panel))
        place.set_xlabel(labels.axis_name(panel.axis, unit))
    if len(panels) == 1:
        _axes.say_nothing_here(row[1], "one level\nof label noise")
        row[1].set_xticks([])
    _one_scale(row[:2])
    row[0].set_ylabel(labels.constant_name("bound or norm", "l2"))
    _exponents(row[2], panels, looks)


def _curves(
    place: Axes, panel: Panel, looks: Mapping[str, dict], diverged: NDArray[np.bool_]
) -> None:
    """Means over seeds and their lines."""
    seen = False
    for name, values in panel.curves.items():
        mean = stats.geometric_mean(np.where(values > 0, values, np.nan))
        if np.isfinite(mean).any():
            seen = True
            style_of_points = looks[name] | {"linestyle": "", "markersize": 3.5, "alpha": 0.8}
            place.plot(panel.x, mean, **style_of_points)
    if len(panel.x):
        _axes.width_axis(place, panel.x)
    if panel.start is None:
        if not seen:
            _axes.say_nothing_here(place, panel.reason, diverged=diverged)
        return
    x = panel.x[panel.start :]
    for name, fit in panel.fits.items():
        logs = np.log(panel.curves[name][panel.start :, panel.seeds]).mean(-1)
        line = logs.mean() + fit.exponent.value * (np.log(x) - np.log(x).mean())
        look = {key: looks[name][key] for key in ("color", "linestyle")}
        place.plot(x, np.exp(line), **look)


def _one_scale(pair: Sequence[Axes]) -> None:
    """Logarithmic values of panels side by side, named at the first that has some."""
    drawn = [place for place in pair if place.lines]
    _axes.log_values(*drawn)
    for place in drawn[1:]:
        place.tick_params(labelleft=False)


def _exponents(place: Axes, panels: Sequence[Panel], looks: Mapping[str, dict]) -> None:
    """Exponents with their intervals, and what is proved of the constant's."""
    names, fills = list(looks), [fill for _, fill in FILLS]
    shown = [panel for panel in panels if panel.fits]
    if not shown:
        why = "; ".join(dict.fromkeys(panel.reason for panel in panels if panel.reason))
        _axes.say_nothing_here(place, textwrap.fill(f"no fit: {why}" if why else "no fit", 24))
        place.set_xticks([])
    for shift, fill, panel in zip((0.16, -0.16), fills, panels, strict=False):
        for name, fit in panel.fits.items():
            y = len(names) - names.index(name) + shift
            look = {"color": looks[name]["color"], "marker": looks[name]["marker"]}
            gid = f"exponent, {fill}"
            place.plot(fit.exponent.value, y, fillstyle=fill, markersize=4.5, gid=gid, **look)
            place.hlines(y, fit.exponent.low, fit.exponent.high, color=look["color"], lw=1)
        for which, width in (("least_squares", 3.5), ("average", 1.2)):
            proved = panel.constant and panel.constant[which]
            if proved and np.isfinite(proved.low):
                alpha = 0.6 if fill == "full" else 0.35
                place.hlines(shift * 1.3, proved.low, proved.high, color="black", lw=width,
                             alpha=alpha, gid=PROVED["gid"])  # fmt: skip
    if shown:
        absent = [_no_fit(panel) for panel in panels if not panel.fits]
        place.text(0.02, 0.02, "\n".join(absent), fontsize=style.small(), color=style.GREY,
                   transform=place.transAxes)  # fmt: skip
        place.set_ylim(-0.7 - 3 * len(absent), len(names) + 0.7)
        place.axvline(0, color=style.GREY, lw=0.6)
        place.margins(x=0.12)
        place.locator_params(axis="x", nbins=4)
    place.set_yticks([])
    place.set_xlabel("exponent")
    place.set_title(f"over {panels[0].axis}{_range(panels)}")


def _no_fit(panel: Panel) -> str:
    """In short: the panel beside it is the one that has none."""
    noise = panel.at.get("label_noise")
    return "no fit" if noise is None else f"no fit with {labels.noise_name(float(noise))} noise"


def _range(panels: Sequence[Panel]) -> str:
    """From where to where, if that is the same with both levels of noise."""
    ends = {(panel.x[panel.start], panel.x[-1]) for panel in panels if panel.start is not None}
    return " {:g} to {:g}".format(*ends.pop()) if len(ends) == 1 else ""
