"""Join the parts of an experiment into one table."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

import pandas as pd
import pyarrow as pa

from lipdescent.jobs.progress import log_to
from lipdescent.jobs.words import counted
from lipdescent.storage import atomic, stamped_parquet, stamps
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])


def read(path: str) -> pd.DataFrame:
    """One part."""
    with atomic.sound(path):
        return stamped_parquet.read(path).to_pandas()


made = job_stamps.of(job)
frame = pd.concat([read(path) for path in job.input], ignore_index=True)
with atomic.complete(job.output.csv) as csv:
    frame.to_csv(csv, index=False)
    if made is not None:
        made = stamps.with_companion(made, job.output.csv, csv)
stamped_parquet.write(job.output.parquet, pa.Table.from_pandas(frame), made)
print(f"{counted(len(frame), 'row')} of {counted(len(job.input), 'part')}")
