"""How figures look: sizes and fonts for a paper's column, colours, names, saving.

Colours are Okabe and Ito's (2008) for bounds and viridis for the ordered label noise, both
readable with a colour vision deficiency; markers and dashes repeat what colours say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from lipdescent.selection import Group, Rung

COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches
DPI = 200
GREY = "#555555"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
}


def new_figure(rows: int, columns: int, *, width: float, height: float, **options) -> tuple:
    """Figure of ``width`` x ``height`` inches and its axes (rows, columns); sets the style."""
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, *paths: str | Path) -> None:
    """Write the figure at its exact size; each file appears only when complete."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, the same in every file
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        dates = {"CreationDate": None} if path.suffix == ".pdf" else {}
        figure.savefig(partial, format=path.suffix[1:], metadata=dates)
        os.replace(partial, path)


def noise_colours(levels: Iterable[float]) -> dict[float, tuple]:
    """A colour for every noise level, dark to light; the palest yellow is left out."""
    levels = sorted(levels)
    steps = max(len(levels) - 1, 1)
    colours = matplotlib.colormaps["viridis"]
    return {level: colours(0.88 * place / steps) for place, level in enumerate(levels)}


def rung_styles(rungs: Iterable[Rung]) -> dict[Rung, dict]:
    """Colour, marker and dash of every bound, the same in every figure of a study.

    Lower bounds are dashed.
    """
    styles = {}
    for place, rung in enumerate(sorted(set(rungs), key=lambda r: (r.direction, r.quantity))):
        styles[rung] = {
            "color": OKABE_ITO[place % len(OKABE_ITO)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": "--" if rung.direction == "lower" else "-",
        }
    return styles


def legend(figure: Figure, handles: Sequence, labels: Sequence[str], *, columns: int) -> None:
    """Legend below the axes, never over data."""
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, len(labels)),
            handlelength=2.2,
            columnspacing=1.4,
        )


def heading(figure: Figure, group: Group, *parts: str) -> None:
    """One line above the axes: what was studied, of how many models, and how many are left out."""
    text = [f"{group.dataset}, {group.architecture}", *parts, seeds_text(group)]
    if group.num_diverged:
        text.append(f"{group.num_diverged} diverged models left out")
    figure.suptitle("; ".join(text), fontsize=7, color=GREY)


def seeds_text(group: Group) -> str:
    """``390 models, 6 seeds``."""
    seeds = len(group.seed)
    return f"{group.num_models} models, {seeds} seed{'s' * (seeds > 1)}"


def log_axis(axis, values: Sequence[float]) -> None:
    """Logarithmic x or y axis with a tick at as many of ``values`` as there is room for."""
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log")
    axis.set_minor_locator(NullLocator())
    axis.set_ticks(_spread(values), labels=[f"{value:g}" for value in _spread(values)])


def epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    """Logarithmic epochs with room for epoch 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.xaxis.set_minor_locator(NullLocator())
    places = [e for e in (0, 1, 10, 100, 1000, 10_000, 100_000) if epochs[0] <= e <= epochs[-1]]
    places = places if len(places) > 1 else sorted({epochs[0], epochs[-1]})
    axes.set_xticks(places, labels=[f"{e:g}" for e in places])
    axes.set_xlim(epochs[0] - 0.15, epochs[-1] * 1.3 + 0.15)


def _spread(values: Sequence[float], *, gap: float = 1.8) -> list[float]:
    """``values`` less those closer than a factor ``gap`` to the one before; both ends stay."""
    ends = [values[0], values[-1]]
    kept: list[float] = []
    for value in values:
        if (not kept or value >= gap * kept[-1]) and (value == ends[1] or ends[1] >= gap * value):
            kept.append(value)
    return kept if ends[1] in kept else [*kept, ends[1]]


def log_values(*axes: Axes) -> None:
    """Logarithmic y axes over one range, with plain numbers (20, 50, 100); after the data."""
    low = min(place.dataLim.intervaly[0] for place in axes)
    high = max(place.dataLim.intervaly[1] for place in axes)
    margin = max((high / low) ** 0.05, 1.02)
    low, high = low / margin, high * margin
    for place in axes:
        place.set_yscale("log")
        place.set_ylim(low, high)
        place.yaxis.set_minor_locator(NullLocator())
        place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        place.set_yticks(log_ticks(low, high))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], between two and about seven."""
    for steps in (
        (1,),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 7),
    ):
        ticks = [step * 10.0**power for power in range(-12, 13) for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside[:: -(-len(inside) // 7)]
    return inside if len(inside) > 1 else [low, high]


def say_nothing_here(axes: Axes, text: str) -> None:
    """A panel that has no data says why."""
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=7,
        color=GREY,
        wrap=True,
    )
