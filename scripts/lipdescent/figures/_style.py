"""How figures look: sizes and fonts as they are printed, colours, names, saving.

Colours are Okabe and Ito's (2008) for bounds and viridis for the ordered label noise, both
readable with a colour vision deficiency; markers and dashes repeat what colours say.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lipdescent.analysis import labels
from lipdescent.analysis.groups import Group, Rung
from lipdescent.analysis.statistics import band_name
from lipdescent.figures._fitting import fit
from lipdescent.jobs.words import counted
from lipdescent.storage import atomic, stamps

# As printed, unless configured otherwise: inches, points. Heights are given for this size of type.
WIDTH, FONT_SIZE, FONT = 5.5, 8.0, "DejaVu Sans"
LEAST_SIZE = 7.0  # points; no text is smaller, but for indices in formulas
DPI = 250
GREY = "#555555"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
STYLE: dict[Any, Any] = {
    "axes.titlepad": 4,
    "axes.labelpad": 2.5,
    "xtick.major.pad": 2.5,
    "ytick.major.pad": 2.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
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
    "svg.hashsalt": "lipdescent",  # the same names in every drawing
}
LARGE = ("font.size", "axes.titlesize", "axes.labelsize", "figure.labelsize")
SMALL = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize",
         "figure.titlesize")  # fmt: skip


@contextlib.contextmanager
def printed(
    *, width: float = WIDTH, font_size: float = FONT_SIZE, font: str = FONT
) -> Iterator[None]:
    """What is drawn and saved inside looks so; Matplotlib's settings are as before afterwards.

    The style is this file's on top of Matplotlib's defaults: a matplotlibrc of the user changes
    nothing.

    Parameters
    ----------
    width : of the figures as printed, inches.
    font_size : of titles and names, points; ticks and legends are a point smaller, if they stay
        readable.
    """
    small = max(LEAST_SIZE, font_size - 1)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        sizes: dict[Any, Any] = dict.fromkeys(LARGE, font_size) | dict.fromkeys(SMALL, small)
        matplotlib.rcParams.update(sizes)
        matplotlib.rcParams["font.family"] = list(dict.fromkeys((font, FONT)))
        matplotlib.rcParams["mathtext.fontset"] = _of_formulas(font)
        matplotlib.rcParams["figure.figsize"] = width, 0.6 * width
        yield


def _of_formulas(font: str) -> str:
    """Matplotlib's set of signs that goes with a font."""
    serif = "Serif" in font or any(name in font for name in ("Roman", "STIX", "Times", "CMU"))
    return {FONT: "dejavusans", "DejaVu Serif": "dejavuserif"}.get(
        font, "stix" if serif else "dejavusans"
    )


def small() -> float:
    """Size of the smallest text, points."""
    return float(matplotlib.rcParams["legend.fontsize"])


def enlarged() -> float:
    """Size of type over the one that heights are given for."""
    return float(matplotlib.rcParams["font.size"]) / FONT_SIZE


def new_figure(rows: int, columns: int, *, height: float, **options: Any) -> tuple:
    """Figure as wide as :func:`printed` says, and its axes (rows, columns).

    ``height`` is in inches, for type of the usual size.
    """
    width = matplotlib.rcParams["figure.figsize"][0]
    figure = Figure(figsize=(width, height * enlarged()), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, *paths: str | Path, made: stamps.Stamp | None = None) -> None:
    """Write the figure at its exact size, with a stamp; each file appears only when complete.

    A path's ending says in which format: png, pdf or svg. The canvases are driven directly:
    ``savefig`` would draw the whole figure twice for each file.
    """
    fit(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # laid out once, the same in all files
    dpi = figure.dpi
    for path in map(Path, paths):
        with atomic.complete(path) as partial:
            WRITERS[path.suffix](figure, canvas, partial, made)
        figure.dpi = dpi
    figure.set_canvas(canvas)


def _write_png(
    figure: Figure, canvas: FigureCanvasAgg, path: Path, made: stamps.Stamp | None
) -> None:
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # A palette halves the file, and nobody sees it in lines, cells and text.
    image = image.quantize(256, dither=Image.Dither.NONE)
    about = PngInfo()
    if made is not None:
        about.add_text("Comment", stamps.as_text(made))
    image.save(path, format="png", dpi=(figure.dpi, figure.dpi), pnginfo=about)


def _write_pdf(figure: Figure, _: FigureCanvasAgg, path: Path, made: stamps.Stamp | None) -> None:
    about = {"CreationDate": None, "Keywords": made and stamps.as_text(made)}
    FigureCanvasPdf(figure).print_pdf(path, metadata=about)
    with path.open("ab") as file:
        file.write(b"%" + stamps.seal(path.read_bytes() + b"%").encode() + b"\n")


def _write_svg(figure: Figure, _: FigureCanvasAgg, path: Path, made: stamps.Stamp | None) -> None:
    """Letters are outlines: the same with and without the font."""
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})
    path.write_text(stamps.in_comment(path.read_text(encoding="utf-8"), made), encoding="utf-8")


WRITERS = {".png": _write_png, ".pdf": _write_pdf, ".svg": _write_svg}


def look(place: int, colours: Sequence[str] = OKABE_ITO) -> dict[str, Any]:
    """Colour and marker of the ``place``-th of several kinds."""
    return {"color": colours[place % len(colours)], "marker": MARKERS[place % len(MARKERS)]}


def level_looks(levels: Iterable[float]) -> dict[float, dict[str, Any]]:
    """Colour and marker of every level of label noise, or of another number that is ordered.

    Dark to light, without the palest yellow; the markers tell neighbours apart in grey, too.
    """
    levels = sorted(levels)
    steps = max(len(levels) - 1, 1)
    colours = matplotlib.colormaps["viridis"]
    return {
        level: {"color": colours(0.8 * place / steps), "marker": MARKERS[place % len(MARKERS)]}
        for place, level in enumerate(levels)
    }


def rung_styles(rungs: Iterable[Rung]) -> dict[Rung, dict]:
    """Colour, marker and dash of every bound, the same in every figure of a study.

    Lower bounds are dashed, estimates dotted, declared bounds dash-dotted.
    """
    dashes = {"lower": "--", "estimate": ":", "declared": "-."}
    ordered = sorted(set(rungs), key=lambda r: (r.direction, r.quantity))
    return {
        rung: look(place) | {"linestyle": dashes.get(rung.direction, "-")}
        for place, rung in enumerate(ordered)
    }


def legend(
    figure: Figure, entries: Mapping[str, Mapping[str, Any] | Artist], *, columns: int
) -> None:
    """Legend below the axes, never over data nor wider than the figure: it grows higher instead.

    Parameters
    ----------
    entries : name -> what is shown, or how a line looks.
    columns : the largest number of columns.

    What nothing drawn shows is left out: with a ``gid``, or a marker and a colour other than black,
    in which something has to be drawn.
    """
    entries = {name: entry for name, entry in entries.items() if _is_drawn(figure, entry)}
    if not entries:
        return
    handles = [e if isinstance(e, Artist) else Line2D([], [], **e) for e in entries.values()]
    most = min(columns, len(entries))
    for widest in range(most, 0, -1):
        ncols = -(-len(entries) // -(-len(entries) // widest))  # no nearly empty last line
        shown = figure.legend(
            handles,
            list(entries),
            loc="outside lower center",
            ncols=ncols,
            handlelength=2.2,
            columnspacing=1.4,
        )
        box = shown.get_window_extent()
        if widest == 1 or box.width <= figure.bbox.width:
            break
        shown.remove()
    lines, asked = -(-len(entries) // ncols), -(-len(entries) // most)
    figure.set_figheight(figure.get_figheight() + (lines - asked) / lines * box.height / figure.dpi)


def _is_drawn(figure: Figure, entry: Mapping[str, Any] | Artist) -> bool:
    """Whether something in the panels looks so, or is called so; black alone stands for any."""
    look: Mapping[str, Any] = {"gid": entry.get_gid()} if isinstance(entry, Artist) else entry
    shown = [artist for axes in figure.axes for artist in _shown(axes)]
    if look.get("gid") is not None:
        return any(artist.get_gid() == look["gid"] for artist in shown)
    colour = to_rgb(look.get("color", "black"))
    if colour == to_rgb("black"):
        return True
    wanted = look.get("marker")
    return any(
        colour in _colours(artist)
        and (not wanted or not isinstance(artist, Line2D) or artist.get_marker() == wanted)
        for artist in shown
    )


def _shown(axes: Axes) -> Iterator[Artist]:
    """Lines, regions and bars that have a place."""
    for line in axes.lines:
        if np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any():
            yield line
    yield from (region for region in axes.collections if len(region.get_paths()))
    yield from axes.patches


def _colours(artist: Any) -> set[tuple[float, ...]]:
    """Without what shows through."""
    if isinstance(artist, Line2D):
        return {to_rgb(artist.get_color())}
    faces = np.atleast_2d(artist.get_facecolor())
    return {tuple(face[:3].tolist()) for face in faces}


def heading(
    figure: Figure, group: Group, *parts: str, confidence: float | None = None, drawn: str = "bands"
) -> None:
    """One line above the axes: what was studied, of how many models, and how many are left out.

    ``confidence`` is that of the bands, or of what else is ``drawn``, where there is something.
    """
    parts = labels.variant_name(group.variant), *parts
    counts = group.num_models, group.num_diverged
    heading_of(figure, group, *parts, counts=counts, confidence=confidence, drawn=drawn)


def heading_of(
    figure: Figure,
    group: Group,
    *parts: str,
    counts: tuple[int, int],
    confidence: float | None,
    drawn: str = "bands",
) -> None:
    """A heading with the group's data set and seeds; ``counts``: of models, of diverged ones."""
    (models, diverged), seeds = counts, len(group.seed)
    text = [group.dataset, *parts]
    if confidence is not None:
        text.append(band_name(seeds, confidence).replace("bands", drawn))
    text.append(f"{counted(models, 'model')}, {counted(seeds, 'seed')}")
    if diverged:
        text.append(f"{counted(diverged, 'diverged model')} left out")
    figure.suptitle("; ".join(filter(None, text)), fontsize=small(), color=GREY)
