"""How figures look: sizes and fonts for a paper's column, colours, names, saving.

Colours are Okabe and Ito's (2008) for bounds and viridis for the ordered label noise, both
readable with a colour vision deficiency; markers and dashes repeat what colours say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lipdescent import files, stamps
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
    """Figure of ``width`` x ``height`` inches and its axes (rows, columns); sets the style.

    The style is this file's on top of Matplotlib's defaults: a matplotlibrc of the user changes
    nothing.
    """
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(
    figure: Figure, pdf: str | Path, png: str | Path, made: stamps.Stamp | None = None
) -> None:
    """Write the figure at its exact size, with a stamp; each file appears only when complete.

    The canvases are driven directly: ``savefig`` would draw the whole figure twice for each file.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # laid out once, the same in both files
    with files.complete(png) as partial:
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # A palette halves the file, and nobody sees it in lines, cells and text.
        image = image.quantize(256, dither=Image.Dither.NONE)
        about = PngInfo()
        if made is not None:
            about.add_text("Comment", stamps.as_text(made))
        image.save(partial, format="png", dpi=(figure.dpi, figure.dpi), pnginfo=about)
    dpi = figure.dpi
    with files.complete(pdf) as partial:
        FigureCanvasPdf(figure).print_pdf(
            partial, metadata={"CreationDate": None, "Keywords": made and stamps.as_text(made)}
        )
        with partial.open("ab") as file:
            file.write(b"%" + stamps.seal(partial.read_bytes() + b"%").encode() + b"\n")
    figure.dpi = dpi
    figure.set_canvas(canvas)


def noise_colours(levels: Iterable[float]) -> dict[float, tuple]:
    """A colour for every noise level, dark to light; the palest yellow is left out."""
    levels = sorted(levels)
    steps = max(len(levels) - 1, 1)
    colours = matplotlib.colormaps["viridis"]
    return {level: colours(0.88 * place / steps) for place, level in enumerate(levels)}


def rung_styles(rungs: Iterable[Rung]) -> dict[Rung, dict]:
    """Colour, marker and dash of every bound, the same in every figure of a study.

    Lower bounds are dashed, estimates dotted.
    """
    styles = {}
    for place, rung in enumerate(sorted(set(rungs), key=lambda r: (r.direction, r.quantity))):
        styles[rung] = {
            "color": OKABE_ITO[place % len(OKABE_ITO)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": {"lower": "--", "estimate": ":"}.get(rung.direction, "-"),
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
    text = [f"{group.dataset}, {group.architecture}", *filter(None, parts), seeds_text(group)]
    if group.num_diverged:
        text.append(f"{count(group.num_diverged, 'diverged model')} left out")
    figure.suptitle("; ".join(text), fontsize=7, color=GREY)


def count(number: int, word: str) -> str:
    """``6 seeds``, ``1 seed``."""
    return f"{number} {word}{'s' * (number != 1)}"


def seeds_text(group: Group) -> str:
    """``390 models, 6 seeds``."""
    return f"{count(group.num_models, 'model')}, {count(len(group.seed), 'seed')}"


def width_axis(axes: Axes, widths: Sequence[float]) -> None:
    """Logarithmic x axis over ``widths``, named at as many as there is room for."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    shown = _spread(widths)
    axes.set_xticks(shown, labels=[f"{value:g}" for value in shown])
    margin = max((widths[-1] / widths[0]) ** 0.05, 1.2)
    axes.set_xlim(widths[0] / margin, widths[-1] * margin)


def epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    """Logarithmic epochs with room for epoch 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.xaxis.set_minor_locator(NullLocator())
    places = [e for e in (0, 1, 10, 100, 1000, 10_000, 100_000) if epochs[0] <= e <= epochs[-1]]
    places = places if len(places) > 1 else sorted({epochs[0], epochs[-1]})
    axes.set_xticks(places, labels=[f"{e:g}" for e in places])
    axes.set_xlim(epochs[0] - 0.15, epochs[-1] * 1.3 + 0.15)


def _spread(values: Sequence[float], *, most: int = 8) -> list[float]:
    """About ``most`` of ``values``, apart on a log scale; both ends stay."""
    first, last = values[0], values[-1]
    gap = max(1.8, 0.99 * (last / first) ** (1 / (most - 1)))
    kept = [first]
    for value in values:
        if value >= gap * kept[-1] and last >= gap * value:
            kept.append(value)
    return kept if last == first else [*kept, last]


def log_values(*axes: Axes) -> None:
    """Logarithmic y axes over one range, with plain numbers (20, 50, 100); after the data.

    Axes without a finite value, as of models that have all diverged, stay as they are.
    """
    ends = [end for place in axes for end in place.dataLim.intervaly if 0 < end < math.inf]
    if not ends:
        return
    low, high = min(ends), max(ends)
    margin = max((high / low) ** 0.05, 1.02)
    low, high = low / margin, high * margin
    for place in axes:
        place.set_yscale("log")
        place.set_ylim(low, high)
        place.yaxis.set_minor_locator(NullLocator())
        place.yaxis.set_major_formatter(FuncFormatter(short))
        place.set_yticks(log_ticks(low, high))


def short(value: float, _: int | None = None) -> str:
    """At most three digits that count, without an exponent where that is readable."""
    return f"{float(f'{value:.3g}'):g}"


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


def why_empty(diverged: np.ndarray, otherwise: str) -> str:
    """What a panel without data says: that its models have all diverged, or something else."""
    return "all models diverged" if diverged.all() else otherwise


def say_nothing_here(axes: Axes, text: str) -> None:
    """A panel that has no data says why."""
    axes.set_yticks([])
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
