"""The tidy table of one dataset and architecture as arrays over width, noise, epoch and seed.

In a study with further axes an architecture at each of their points is a group of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lipdescent.analysis.statistics import Array
from lipdescent.storage import atomic, variants
from lipdescent.storage import table as tidy
from lipdescent.storage.variants import Value

# A table, or the file of one: files are never in memory as a whole.
Source: TypeAlias = pa.Table | str | Path
AXES = ("width", "label_noise", "epoch", "seed")
# An estimate is a lower bound whose rounding is not proved, a declared one is an upper bound that
# rests on what a user said of a layer: both are shown, but in no bracket.
DIRECTIONS = ("lower", "upper", "estimate", "declared")
FROM_ABOVE = ("upper", "declared")


class Series(NamedTuple):
    """What was measured."""

    quantity: str
    direction: str
    norm: str
    split: str


class Rung(NamedTuple):
    """One bound of the ladder, the data it was taken on merged."""

    quantity: str
    direction: str


@dataclass(frozen=True)
class Group:
    """All measurements of one dataset and architecture.

    Attributes
    ----------
    width, label_noise, epoch, seed : the axes, increasing: (W,), (N,), (E,), (S,).
    num_parameters : of the networks of each width, (W,).
    series : what was measured -> float64 (W, N, E, S), NaN where there is no value.
    diverged : bool (W, N, E, S), checkpoints with a NaN or an infinity; no series has them.
    not_applicable : bounds that do not exist for these networks.
    failed : bound -> widths at which its code failed for some checkpoint (status ``error``).
    point : the group's values of the study's further axes.
    width_unit : what the width counts, such as ``units`` or ``channels``; empty: not known.
    """

    study: str
    dataset: str
    architecture: str
    width: NDArray[np.int64]
    label_noise: Array
    epoch: NDArray[np.int64]
    seed: NDArray[np.int64]
    series: dict[Series, Array]
    diverged: NDArray[np.bool_]
    not_applicable: tuple[str, ...]
    failed: dict[str, list[int]] = field(default_factory=dict)
    point: dict[str, Value] = field(default_factory=dict)
    num_parameters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    width_unit: str = ""

    @property
    def variant(self) -> str:
        """The architecture at the group's point, by its name (:mod:`storage.variants`)."""
        return variants.name(self.architecture, self.point)

    @property
    def noise_ends(self) -> list[int]:
        """Places of the least and the most label noise; one where they are the same."""
        return sorted({0, len(self.label_noise) - 1})

    @property
    def num_models(self) -> int:
        """Trained networks: widths x noise levels x seeds."""
        return len(self.width) * len(self.label_noise) * len(self.seed)

    @property
    def num_diverged(self) -> int:
        """Networks that diverged by their last epoch."""
        return int(self.diverged.any(axis=2).sum())


def group_names(source: Source) -> list[tuple[str, str]]:
    """(dataset, architecture at a point) of every group, in the table's order."""
    found: dict[tuple[str, str], None] = {}
    names = list(axes(source))
    for part in _parts(source, ["dataset", "architecture", *names]):
        rows = part.group_by(["dataset", "architecture", *names]).aggregate([])
        for row in rows.to_pylist():
            point = {name: row[name] for name in names if row[name] is not None}
            found[row["dataset"], variants.name(row["architecture"], point)] = None
    return list(found)


def axes(source: Source) -> dict[str, str]:
    """Further axes of the study -> ``text``, ``integer`` or ``number``."""
    return tidy.axes(source) if isinstance(source, pa.Table) else tidy.read_axes(source)


def load_group(path: str | Path, *, dataset: str, architecture: str) -> Group:
    """One dataset and architecture (at a point) out of a study's table file.

    A broken file is put aside.
    """
    with atomic.sound(path):
        group_names(path)  # a part of each row is read: what is truncated or foreign is noticed
    return group_of(path, dataset=dataset, architecture=architecture)


def group_of(source: Source, *, dataset: str, architecture: str) -> Group:
    """The rows of one dataset and architecture, read a part at a time.

    ``architecture`` is one at a point where the study has further axes (``mlp+depth=3``).

    Raises
    ------
    ValueError
        If the table has none.
    """
    chosen = partial(_chosen, source, dataset, architecture)
    study, point, places, sizes = _layout(chosen)
    if not study:
        known = ", ".join("/".join(pair) for pair in group_names(source))
        raise ValueError(f"no rows of {dataset}/{architecture} in the table; it has: {known}")
    series, diverged, absent, failed = _contents(chosen, places)
    present = {key.quantity for key in series}
    grid: dict[str, Any] = dict(zip(AXES, places, strict=True))
    return Group(
        study=study,
        dataset=dataset,
        architecture=variants.split(architecture)[0],
        **grid,
        series=dict(sorted(series.items())),
        diverged=diverged,
        not_applicable=tuple(sorted(absent - present)),
        failed={name: sorted(failed[name]) for name in sorted(failed)},
        point=point,
        num_parameters=np.array([sizes[width] for width in places[0].tolist()]),
    )


def _chosen(
    source: Source, dataset: str, architecture: str, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Rows of the group, a part after the other; all further axes beside the ``columns``."""
    name_of, labels = variants.split(architecture)
    further = list(axes(source))
    for part in _parts(source, [*columns, "dataset", "architecture", *further]):
        keep = pc.and_(_is(part, "dataset", dataset), _is(part, "architecture", name_of))
        for name in further:
            keep = pc.and_(keep, _labelled(part[name], labels.get(name)))
        rows = part.filter(keep).drop_columns(["dataset", "architecture"])
        if rows.num_rows:
            yield rows


def _layout(
    chosen: Callable[[Sequence[str]], Iterable[pa.Table]],
) -> tuple[str, dict[str, Value], list[np.ndarray], dict[int, int]]:
    """Study, point of the further axes, values along :data:`AXES`, width -> parameters."""
    study, known = "", ("study", "num_parameters", *AXES)
    values: dict[str, list[np.ndarray]] = {name: [] for name in AXES}
    point: dict[str, Value] = {}
    sizes: dict[int, int] = {}
    for rows in chosen(known):
        study, first = rows["study"][0].as_py(), rows.slice(0, 1).to_pylist()[0]
        point = {n: v for n, v in first.items() if n not in known and v is not None}
        pairs_of = rows.group_by(["width", "num_parameters"]).aggregate([]).to_pylist()
        sizes |= {row["width"]: row["num_parameters"] for row in pairs_of}
        for name in AXES:
            values[name].append(pc.unique(rows[name]).to_numpy())
    places = [np.unique(np.concatenate(values[name])) for name in AXES] if study else []
    return study, point, places, sizes


def _contents(
    chosen: Callable[[Sequence[str]], Iterable[pa.Table]], places: list[np.ndarray]
) -> tuple[dict[Series, Array], NDArray[np.bool_], set[str], dict[str, set[int]]]:
    """Series, what diverged, quantities not applicable, and those that failed -> widths."""
    shape = tuple(map(len, places))
    diverged, absent = np.zeros(shape, dtype=bool), set()
    series: dict[Series, Array] = {}
    failed: dict[str, set[int]] = {}
    for rows in chosen((*AXES, *Series._fields, "value", "status")):
        columns = (rows[name].to_numpy() for name in AXES)
        found = (np.searchsorted(*pair) for pair in zip(places, columns, strict=True))
        cell = np.ravel_multi_index(tuple(found), shape)
        diverged.ravel()[cell[_are(rows["status"], "diverged")]] = True
        missing = rows.filter(pa.array(_are(rows["status"], "not_applicable")))
        absent |= set(pc.unique(missing["quantity"].cast(pa.string())).to_pylist())
        errors = rows.filter(pa.array(_are(rows["status"], "error")))
        for row in errors.group_by(["quantity", "width"]).aggregate([]).to_pylist():
            failed.setdefault(row["quantity"], set()).add(row["width"])
        _fill(series, rows, cell, shape)
    for array in series.values():
        array[diverged] = np.nan
    return series, diverged, absent, failed


def _parts(source: Source, columns: Sequence[str]) -> Iterable[pa.Table]:
    if isinstance(source, pa.Table):
        return [source.select(list(columns))]
    return tidy.parts(source, columns)


def _fill(
    series: dict[Series, Array], rows: pa.Table, cell: NDArray[np.int64], shape: tuple[int, ...]
) -> None:
    """Put the values of some rows into the arrays of their series."""
    words, codes = [], np.zeros(rows.num_rows, dtype=np.int64)
    for column in Series._fields:
        names, code = _encoded(rows[column])
        words.append(names)
        codes = codes * max(len(names), 1) + code
    values = rows["value"].to_numpy()
    keep = np.isfinite(values) & _are(rows["status"], "ok")
    for code in np.unique(codes[keep]):
        places = np.unravel_index(code, tuple(map(len, words)))
        key = Series(*(names[place] for names, place in zip(words, places, strict=True)))
        here = keep & (codes == code)
        if key not in series:
            series[key] = np.full(shape, np.nan)
        series[key].ravel()[cell[here]] = values[here]


def _labelled(column: pa.ChunkedArray, label: str | None) -> pa.Array:
    """Which rows have the value of a label; none where it is None: the axis is not theirs."""
    found = {value for value in pc.unique(column).to_pylist() if value is not None}
    if label is None:
        return pc.is_null(column)
    same = [value for value in found if variants.label(value) == label]
    plain = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
    return pc.fill_null(pc.is_in(plain, pa.array(same, plain.type)), False)


def _is(table: pa.Table, column: str, value: str) -> pa.Array:
    return pa.array(_are(table[column], value))


def _are(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    """Which rows of a dictionary column hold a word."""
    words, codes = _encoded(column)
    return codes == words.index(value) if value in words else np.zeros(len(codes), dtype=bool)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Words of a dictionary column and each row's place among them."""
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0)
    return whole.dictionary.to_pylist(), whole.indices.to_numpy()
