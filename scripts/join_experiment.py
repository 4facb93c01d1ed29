"""Join the parts of an experiment into one table."""

from lipdescent import fork_server

fork_server.hand_over()

import pandas as pd

from lipdescent import files
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

frame = pd.concat([pd.read_parquet(path) for path in job.input], ignore_index=True)
with files.complete(job.output.parquet) as parquet, files.complete(job.output.csv) as csv:
    frame.to_parquet(parquet)
    frame.to_csv(csv, index=False)
print(f"{len(frame)} rows of {len(job.input)} parts")
