"""Run one experiment, or a part of it, and keep its table."""

from lipdescent import fork_server

fork_server.hand_over()

import time

import pyarrow as pa
import torch

from lipdescent import device, names, stamped_parquet, stamps
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

torch.set_num_threads(job.threads)
# Subnormal numbers are not flushed to zero as in train.py: bounds are taken here, too.
made = stamps.of(job, **device.described(torch.device("cpu")))
start = time.perf_counter()
frame = names.resolve("experiments", job.wildcards.experiment).run(**job.params.options)
stamped_parquet.write(job.output[0], pa.Table.from_pandas(frame), made)
print(f"{len(frame)} rows in {time.perf_counter() - start:.1f} s")
