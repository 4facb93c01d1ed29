"""The tidy table: one row per measured value.

Parquet by pyarrow, CSV for people. Columns and their types are fixed here; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lipdescent.storage import atomic, places, stamped_parquet, stamps

TEXT = pa.dictionary(pa.int32(), pa.string())
COLUMNS = pa.schema(
    [
        ("study", TEXT),
        ("dataset", TEXT),
        ("architecture", TEXT),
        ("width", pa.int64()),
        ("num_parameters", pa.int64()),
        ("label_noise", pa.float64()),
        ("seed", pa.int64()),
        ("epoch", pa.int64()),
        ("split", TEXT),
        ("quantity", TEXT),
        ("direction", TEXT),
        ("norm", TEXT),
        ("value", pa.float64()),
        # ok; diverged: the network has a weight, or a metric, that is not finite; not_finite: a
        # bound of a finite network is not, by an overflow for instance; not_applicable: there is
        # no such bound; error: the bound's code raised an exception or gave no bound (a negative
        # number), its log says which.
        ("status", TEXT),
    ]
)


def write(path: str | Path, table: pa.Table, made: stamps.Stamp | None = None) -> None:
    """Parquet with a stamp; the file appears only when complete."""
    stamped_parquet.write(path, table.select(COLUMNS.names).cast(COLUMNS), made)


def gather(
    stacks: Iterable[pa.Table],
    *,
    parquet: str | Path,
    csv: str | Path,
    made: stamps.Stamp | None = None,
) -> int:
    """Check and write the whole table, holding the rows of one stack at a time; number of rows.

    Both files appear only when complete.

    Parameters
    ----------
    stacks : all rows of one stack each: a cell's bounds are compared within their stack.

    Raises
    ------
    BoundViolation
        See :func:`check_order`.
    """
    plain = pa.schema([(f.name, pa.string() if f.type == TEXT else f.type) for f in COLUMNS])
    count = 0
    with (
        atomic.complete(parquet) as whole,
        atomic.complete(csv) as text,
        pq.ParquetWriter(whole, COLUMNS, compression="zstd", write_page_checksum=True) as rows,
    ):
        with pa.csv.CSVWriter(text, plain) as lines:
            for stack in stacks:
                check_order(stack)
                rows.write_table(stack)
                lines.write_table(stack.cast(plain))
                count += stack.num_rows
        if made is not None:
            stamp = stamps.with_companion(made, csv, text)
            rows.add_key_value_metadata({stamps.KEY: stamps.dumps(stamp)})
    return count


def read(path: str | Path) -> pa.Table:
    """One table.

    Raises
    ------
    ValueError
        If the file is truncated, altered, not Parquet, has other columns, or lies in
        results/<study>/ and holds another study's or run's rows.
    """
    table = stamped_parquet.read(path)
    if table.column_names != COLUMNS.names:
        raise ValueError(f"{path}: columns {table.column_names}, expected {COLUMNS.names}")
    places.check(table, path)
    return table.replace_schema_metadata().cast(COLUMNS).unify_dictionaries()


def parts(path: str | Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a table, a part of its rows at a time (a stack's, as gathered).

    Raises
    ------
    ValueError
        As :func:`read`.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.schema_arrow.names != COLUMNS.names:
                raise ValueError(
                    f"{path}: columns {file.schema_arrow.names}, expected {COLUMNS.names}"
                )
            wanted = [name for name in COLUMNS.names if name in {*columns, *places.COLUMNS}]
            for number in range(file.num_row_groups):
                part = file.read_row_group(number, columns=wanted)
                places.check(part, path)
                yield part.select(list(columns)).replace_schema_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: truncated, altered or not a Parquet file ({error})") from error


def from_columns(num_rows: int, **columns: object) -> pa.Table:
    """Table from arrays of ``num_rows`` and constants, one per column name."""
    arrays = []
    for field in COLUMNS:
        value = columns.pop(field.name)
        if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str):
            array = pa.array(value, pa.string() if field.type == TEXT else field.type)
        else:
            kind = pa.string() if field.type == TEXT else field.type
            array = pa.repeat(pa.scalar(value, kind), num_rows)
        arrays.append(array.dictionary_encode().cast(TEXT) if field.type == TEXT else array)
    if columns:
        raise TypeError(f"unknown columns {sorted(columns)}")
    return pa.Table.from_arrays(arrays, schema=COLUMNS)


def concatenate(tables: Iterable[pa.Table]) -> pa.Table:
    """All rows; each text column gets one dictionary."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


class BoundViolation(ValueError):
    """A lower bound lies above an upper bound: one of them is wrong."""


def check_order(table: pa.Table) -> None:
    """Every lower bound is at most every upper bound of the same network and norm.

    Raises
    ------
    BoundViolation
        Naming the cell, both bounds and their values.
    """
    cell = ["study", "dataset", "architecture", "width", "label_noise", "seed", "epoch", "norm"]
    sides = {}
    for direction, best in (("lower", "max"), ("upper", "min")):
        keep = pa.compute.and_(
            pa.compute.equal(table["direction"].cast(pa.string()), direction),
            pa.compute.equal(table["status"].cast(pa.string()), "ok"),
        )
        rows = table.filter(keep).select([*cell, "value"])
        sides[direction] = rows.group_by(cell).aggregate([("value", best)])
    joined = sides["lower"].join(sides["upper"], cell, join_type="inner")
    wrong = joined.filter(pa.compute.greater(joined["value_max"], joined["value_min"]))
    if wrong.num_rows:
        row = wrong.slice(0, 1).to_pylist()[0]
        place = ", ".join(f"{name}={row[name]}" for name in cell)
        lower, upper = (
            f"{row[best]!r} ({_holder(table, direction, row[best], {k: row[k] for k in cell})})"
            for direction, best in (("lower", "value_max"), ("upper", "value_min"))
        )
        raise BoundViolation(
            f"{wrong.num_rows} cells have a lower bound above an upper bound; the first is "
            f"{place}: best lower {lower} > best upper {upper}"
        )


def _holder(table: pa.Table, direction: str, value: float, cell: dict[str, object]) -> str:
    """Name of the bound that has this value in a cell, and its split."""
    sought = {**cell, "direction": direction, "value": value, "status": "ok"}
    for row in table.to_pylist():
        if all(row[name] == sought[name] for name in sought):
            return row["quantity"] + (f" on {row['split']}" if row["split"] else "")
    raise KeyError(sought)
