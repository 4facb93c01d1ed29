"""A file's place below results/<study>/ says what it must hold; others are refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lipdescent.storage import seed_blocks, stamps, table_columns, variants

# What a place may say something about.
COLUMNS = ("study", "dataset", "architecture", "width", "seed")


def expected(path: str | Path) -> dict[str, str]:
    """Column -> what rows of the table at ``path`` have there, as far as its place says it.

    Of the seeds it is their block's name (:mod:`lipdescent.storage.seed_blocks`).
    """
    parts = stamps.parts_below_results(path)
    found = {"study": parts[0]} if len(parts) > 1 else {}
    if len(parts) == 7 and parts[1] == "measurements":
        _, _, dataset, variant, width, seeds, _ = parts
        architecture, point = variants.split(variant)
        found |= {
            "dataset": dataset,
            "architecture": architecture,
            "width": width.removeprefix("width="),
            "seed": seeds.removeprefix("seeds="),
            **point,
        }
    return found


def check(table: pa.Table, path: str | Path) -> None:
    """Compare a table with its place.

    Raises
    ------
    ValueError
        Naming the file, the column, what it holds and what its place asks for.
    """
    wanted = expected(path)
    named = wanted.keys() - COLUMNS
    there = table_columns.axes(table.column_names)
    # A part of a table need not have them; a measurement has its axes and no others.
    if there is not None and "dataset" in wanted and set(there) != named:
        raise ValueError(
            f"{path}: holds the axes {', '.join(there) or 'none'}, but its place is that of "
            f"{', '.join(sorted(named)) or 'none'}: it is another study's or run's"
        )
    for column, allowed in wanted.items():
        if column not in table.column_names:
            continue
        values = table[column]
        if pa.types.is_dictionary(values.type):
            # Only the dictionary's entries: a table has many rows and few names.
            entries = (chunk.dictionary for chunk in values.chunks)
            present = {name for chunk in entries for name in chunk.to_pylist()}
        else:
            present = set(pc.unique(values).to_pylist())
        if column == "seed":
            strange = seed_blocks.strangers(allowed, present)
        else:
            strange = {value for value in present if variants.label(value) != allowed}
        if table.num_rows and strange:
            held = ", ".join(sorted(map(str, strange)))
            raise ValueError(
                f"{path}: holds {column} {held}, but its place is that of {column} {allowed}: "
                "it is another study's or run's"
            )
