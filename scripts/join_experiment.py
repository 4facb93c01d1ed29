"""Join the parts of an experiment into one table."""

from lipdescent import fork_server

fork_server.hand_over()

import pandas as pd
import pyarrow as pa

from lipdescent import files, stamped_parquet, stamps
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])


def read(path):
    """One part."""
    with files.sound(path):
        return stamped_parquet.read(path).to_pandas()


made = stamps.of(job)
frame = pd.concat([read(path) for path in job.input], ignore_index=True)
with files.complete(job.output.csv) as csv:
    frame.to_csv(csv, index=False)
    made = stamps.with_companion(made, job.output.csv, csv)
stamped_parquet.write(job.output.parquet, pa.Table.from_pandas(frame), made)
print(f"{len(frame)} rows of {len(job.input)} parts")
