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
NORMS = {"l1": r"$\ell_1$", "l2": r"$\ell_2$", "linf": r"$\ell_\infty$"}
SPELLING = {
    "lipsdp": "LipSDP",
    "geolip": "GeoLIP",
    "jacobian": "Jacobian",
    "eclipse": "ECLipsE",
    "combettes": "Combettes",
    "pesquet": "Pesquet",
    "gaussian": "Gaussian",
}
LOSS_UNITS = {"cross_entropy": "nats"}
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


def noise_name(level: float) -> str:
    """A fraction as a percentage: .25 -> ``25 %``."""
    return f"{100 * level:g} %"


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


def rung_name(rung: Rung) -> str:
    """``upper_layer_product`` -> ``layer product (upper)``."""
    words = rung.quantity.removeprefix(f"{rung.direction}_").split("_")
    return f"{' '.join(SPELLING.get(word, word) for word in words)} ({rung.direction})"


def loss_name(split: str, loss: str) -> str:
    """``test cross entropy (nats)``."""
    unit = f" ({LOSS_UNITS[loss]})" if loss in LOSS_UNITS else ""
    return f"{split} {loss.replace('_', ' ')}{unit}"


def bound_name(which: str, norm: str) -> str:
    """``best lower bound ($\\ell_2$)``; a bound on logits per unit of input."""
    return f"{which} bound ({NORMS.get(norm, norm)})"


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


def _spread(values: Sequence[float], *, gap: float = 1.8) -> list[float]:
    """``values`` less those closer than a factor ``gap`` to the one before; both ends stay."""
    ends = [values[0], values[-1]]
    kept: list[float] = []
    for value in values:
        if (not kept or value >= gap * kept[-1]) and (value == ends[1] or ends[1] >= gap * value):
            kept.append(value)
    return kept if ends[1] in kept else [*kept, ends[1]]


def log_values(axes: Axes) -> None:
    """Logarithmic y axis with plain numbers (20, 50, 100), few enough to read."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [m * 10.0**e for e in range(-12, 13) for m in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) >= 2:
        axes.set_yticks(inside)


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
