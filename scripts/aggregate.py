"""Gather all measurements into the tidy table; a lower bound above an upper one ends the run."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

from itertools import groupby
from pathlib import Path

import pyarrow as pa

from lipdescent.jobs.progress import log_to
from lipdescent.jobs.words import counted
from lipdescent.storage import atomic, stamps, table, table_words
from lipdescent.study import bound_checks, job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])


quantities: set[str] = set()


def read(path: str) -> pa.Table:
    """One measurement of one stack."""
    with atomic.sound(path):
        found = table.read(path)
        names = found["quantity"].unique().to_pylist()
        bound_checks.check_rows(names, path, job.config)
        quantities.update(names)
        return found


made = job_stamps.of(job)
# A stack's measurements lie in one folder and follow each other.
stacks = (
    table.concatenate([read(path) for path in paths])
    for _, paths in groupby(job.input, key=lambda path: Path(path).parent)
)
axes = job.params.axes
count = table.gather(
    stacks,
    parquet=job.output.parquet,
    csv=job.output.csv,
    axes=axes,
    made=made,
    words=table_words.document(axes, [])["columns"],
)
with atomic.complete(job.output.words) as partial:
    partial.write_text(stamps.document(table_words.document(axes, quantities), made))
print(f"{counted(count, 'row')} from {counted(len(job.input), 'file')}")
