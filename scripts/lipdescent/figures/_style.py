"""How figures look: sizes and fonts for a paper's column, colours, names, saving.

Colours are Okabe and Ito's (2008) for bounds and viridis for the ordered label noise, both
readable with a colour vision deficiency; markers and dashes repeat what colours say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lipdescent.analysis import labels
from lipdescent.analysis.groups import Group, Rung
from lipdescent.storage import atomic, stamps

TWO_COLUMNS = 7.0  # inches
DPI = 200
GREY = "#555555"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
STYLE: dict[Any, Any] = {
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


def new_figure(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple:
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
    with atomic.complete(png) as partial:
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # A palette halves the file, and nobody sees it in lines, cells and text.
        image = image.quantize(256, dither=Image.Dither.NONE)
        about = PngInfo()
        if made is not None:
            about.add_text("Comment", stamps.as_text(made))
        image.save(partial, format="png", dpi=(figure.dpi, figure.dpi), pnginfo=about)
    dpi = figure.dpi
    with atomic.complete(pdf) as partial:
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

    Lower bounds are dashed, estimates dotted, declared bounds dash-dotted.
    """
    styles = {}
    for place, rung in enumerate(sorted(set(rungs), key=lambda r: (r.direction, r.quantity))):
        styles[rung] = {
            "color": OKABE_ITO[place % len(OKABE_ITO)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": {"lower": "--", "estimate": ":", "declared": "-."}.get(
                rung.direction, "-"
            ),
        }
    return styles


def legend(figure: Figure, handles: Sequence, names: Sequence[str], *, columns: int) -> None:
    """Legend below the axes, never over data nor wider than the figure: it grows higher instead.

    ``columns`` is the largest number of columns.
    """
    if not handles:
        return
    most = min(columns, len(names))
    for ncols in range(most, 0, -1):
        shown = figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=ncols,
            handlelength=2.2,
            columnspacing=1.4,
        )
        box = shown.get_window_extent()
        if ncols == 1 or box.width <= figure.bbox.width:
            break
        shown.remove()
    lines, asked = -(-len(names) // ncols), -(-len(names) // most)
    figure.set_figheight(figure.get_figheight() + (lines - asked) / lines * box.height / figure.dpi)


def heading(figure: Figure, group: Group, *parts: str) -> None:
    """One line above the axes: what was studied, of how many models, and how many are left out."""
    text = [
        group.dataset,
        labels.variant_name(group.variant),
        *filter(None, parts),
        f"{count(group.num_models, 'model')}, {count(len(group.seed), 'seed')}",
    ]
    if group.num_diverged:
        text.append(f"{count(group.num_diverged, 'diverged model')} left out")
    figure.suptitle("; ".join(text), fontsize=7, color=GREY)


def count(number: int, word: str) -> str:
    """``6 seeds``, ``1 seed``."""
    return f"{number} {word}{'s' * (number != 1)}"
