"""The tidy table: one row per measured value.

Parquet by pyarrow, CSV for people. Columns and their types are fixed here; nothing is unpickled.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lipdescent.storage import atomic, places, stamped_parquet, stamps, table_columns
from lipdescent.storage.variants import Point

TEXT = pa.dictionary(pa.int32(), pa.string())
LARGEST_AT = b"largest_at"  # in the metadata of a measurement's file
KIND_OF = {str: "text", int: "integer", float: "number"}
TYPES = {"text": TEXT, "integer": pa.int64(), "number": pa.float64()}


def schema(axes: Mapping[str, str] | None = None) -> pa.Schema:
    """Columns of a table of a study with further axes: name -> kind (table_columns.KINDS)."""
    fields = []
    for name, kind in table_columns.KINDS.items():
        fields.append((name, TYPES[kind]))
        if name == table_columns.AXES_AFTER:
            fields += [(axis, TYPES[kind]) for axis, kind in (axes or {}).items()]
    return pa.schema(fields)


COLUMNS = schema()


def axes(table: pa.Table | pa.Schema) -> dict[str, str]:
    """Further axes of a table -> their kind.

    Raises
    ------
    ValueError
        If its columns are not those of such a table.
    """
    found = table if isinstance(table, pa.Schema) else table.schema
    names = table_columns.axes(found.names)
    if names is None:
        raise ValueError(f"columns {found.names}, expected {COLUMNS.names}")
    return {name: _kind(found.field(name)) for name in names}


def _kind(field: pa.Field) -> str:
    plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kinds = {pa.string(): "text", pa.int64(): "integer", pa.float64(): "number"}
    if plain not in kinds:
        raise ValueError(f"column {field.name} of {plain}, expected are words or numbers")
    return kinds[plain]


def write(path: str | Path, table: pa.Table, made: stamps.Stamp | None = None) -> None:
    """Parquet with a stamp; the file appears only when complete."""
    columns = schema(axes(table))
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key == LARGEST_AT}
    rows = table.select(columns.names).cast(columns).replace_schema_metadata(kept or None)
    stamped_parquet.write(path, rows, made)


def with_largest_at(
    table: pa.Table, places: Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
) -> pa.Table:
    """The table, and beside it points by norm and split: of each finite model so many indices."""
    return table.replace_schema_metadata({LARGEST_AT: json.dumps(places)} if places else None)


def largest_at(path: str | Path) -> dict[str, dict[str, list[list[int]]]]:
    """What :func:`with_largest_at` has put beside a table that was written; empty without."""
    metadata = stamped_parquet.read(path).schema.metadata or {}
    return json.loads(metadata.get(LARGEST_AT, b"{}"))


def gather(
    stacks: Iterable[pa.Table],
    *,
    parquet: str | Path,
    csv: str | Path,
    axes: Mapping[str, str] | None = None,
    made: stamps.Stamp | None = None,
    words: Mapping[str, Mapping[str, str]] | None = None,
) -> int:
    """Check and write the whole table, holding the rows of one stack at a time; number of rows.

    Both files appear only when complete.

    Parameters
    ----------
    stacks : all rows of one stack each: a cell's bounds are compared within their stack.
    axes : further axes of the study -> their kinds; null for stacks that have none of that name.
    words : column -> what is said of it in the metadata of its field.

    Raises
    ------
    BoundViolation
        See :func:`check_order`.
    """
    columns = pa.schema(
        [field.with_metadata((words or {}).get(field.name)) for field in schema(axes)]
    )
    plain = pa.schema([(f.name, pa.string() if f.type == TEXT else f.type) for f in columns])
    count = 0
    with (
        atomic.complete(parquet) as whole,
        atomic.complete(csv) as text,
        pq.ParquetWriter(whole, columns, compression="zstd", write_page_checksum=True) as rows,
    ):
        with pa.csv.CSVWriter(text, plain) as lines:
            for stack in stacks:
                check_order(stack)
                stack = with_axes(stack, columns)
                rows.write_table(stack)
                lines.write_table(stack.cast(plain))
                count += stack.num_rows
        if made is not None:
            stamp = stamps.with_companion(made, csv, text)
            rows.add_key_value_metadata({stamps.KEY: stamps.dumps(stamp)})
    return count


def with_axes(stack: pa.Table, columns: pa.Schema) -> pa.Table:
    """With a column for every axis: of nulls, or of the kind that the study has."""
    present = set(stack.column_names)
    arrays = [
        stack[f.name].cast(f.type) if f.name in present else pa.nulls(stack.num_rows, f.type)
        for f in columns
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


def read(path: str | Path) -> pa.Table:
    """One table.

    Raises
    ------
    ValueError
        If the file is truncated, altered, not Parquet, has other columns, or lies in
        results/<study>/ and holds another study's or run's rows.
    """
    table = stamped_parquet.read(path)
    columns = schema(_axes_of_file(table.schema, path))
    places.check(table, path)
    return table.replace_schema_metadata().cast(columns).unify_dictionaries()


def _axes_of_file(found: pa.Schema, path: str | Path) -> dict[str, str]:
    try:
        return axes(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_axes(path: str | Path) -> dict[str, str]:
    """Further axes of a table's file -> their kinds.

    Raises
    ------
    ValueError
        As :func:`read`.
    """
    try:
        return _axes_of_file(pq.read_schema(path), path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: truncated, altered or not a Parquet file ({error})") from error


def parts(path: str | Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a table, a part of its rows at a time (a stack's, as gathered).

    Raises
    ------
    ValueError
        As :func:`read`.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _axes_of_file(file.schema_arrow, path)
            names = file.schema_arrow.names
            wanted = [name for name in names if name in {*columns, *places.COLUMNS}]
            for number in range(file.num_row_groups):
                part = file.read_row_group(number, columns=wanted)
                places.check(part, path)
                yield part.select(list(columns)).replace_schema_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: truncated, altered or not a Parquet file ({error})") from error


def from_columns(num_rows: int, *, point: Point | None = None, **columns: object) -> pa.Table:
    """Table from arrays of ``num_rows`` and constants, one per column name.

    ``point`` has the values of further axes: each is a column of its own.
    """
    arrays = []
    kinds = {name: KIND_OF[type(value)] for name, value in (point or {}).items()}
    whole = schema(kinds)
    columns |= point or {}
    for field in whole:
        value = columns.pop(field.name)
        if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str):
            array = pa.array(value, pa.string() if field.type == TEXT else field.type)
        else:
            kind = pa.string() if field.type == TEXT else field.type
            array = pa.repeat(pa.scalar(value, kind), num_rows)
        arrays.append(array.dictionary_encode().cast(TEXT) if field.type == TEXT else array)
    if columns:
        raise TypeError(f"unknown columns {sorted(columns)}")
    return pa.Table.from_arrays(arrays, schema=whole)


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
    names = list(axes(table))
    for name in names:  # rows are not joined by a null
        words = table[name].cast(pa.string()).fill_null("")
        table = table.set_column(table.column_names.index(name), name, words)
    cell[4:4] = names
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
