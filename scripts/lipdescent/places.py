"""A file's place below results/<study>/ says what it must hold; others are refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

# What a place may say something about.
COLUMNS = ("study", "dataset", "architecture", "width", "seed")


def expected(path: str | Path) -> dict[str, set]:
    """Column -> values that rows of the table at ``path`` may have, as far as its place says."""
    parts = Path(path).parts
    if "results" not in parts:
        return {}
    parts = parts[len(parts) - parts[::-1].index("results") :]
    found: dict[str, set] = {"study": {parts[0]}} if len(parts) > 1 else {}
    if len(parts) == 7 and parts[1] == "measurements":
        _, _, dataset, architecture, width, seeds, _ = parts
        found |= {
            "dataset": {dataset},
            "architecture": {architecture},
            "width": {int(width.removeprefix("width="))},
            "seed": seeds_of(seeds.removeprefix("seeds=")),
        }
    return found


def seeds_of(block: str) -> set[int]:
    """Seeds of a block by its name: ``0-5`` or ``0_2_7``."""
    if "_" in block or "-" not in block:
        return {int(seed) for seed in block.split("_")}
    first, last = block.split("-")
    return set(range(int(first), int(last) + 1))


def check(table: pa.Table, path: str | Path) -> None:
    """Compare a table with its place.

    Raises
    ------
    ValueError
        Naming the file, the column, what it holds and what its place asks for.
    """
    for column, allowed in expected(path).items():
        values = table[column]
        if pa.types.is_dictionary(values.type):
            # Only the dictionary's entries: a table has many rows and few names.
            entries = (chunk.dictionary for chunk in values.chunks)
            present = {name for chunk in entries for name in chunk.to_pylist()}
        else:
            present = set(pc.unique(values).to_pylist())
        if table.num_rows and not present <= allowed:
            strange = ", ".join(map(str, sorted(present - allowed)))
            raise ValueError(
                f"{path}: holds {column} {strange}, but its place is that of "
                f"{column} {', '.join(map(str, sorted(allowed)))}: it is another study's or run's"
            )
