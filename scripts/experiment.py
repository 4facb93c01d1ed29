"""Run one experiment, or a part of it, and keep its table."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

import time

import pyarrow as pa
import torch

from lipdescent.jobs import device
from lipdescent.jobs.progress import log_to
from lipdescent.jobs.words import counted
from lipdescent.plugins import lookup
from lipdescent.storage import stamped_parquet
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])

torch.set_num_threads(job.threads)
# Subnormal numbers are not flushed to zero as in train.py: bounds are taken here, too.
made = job_stamps.of(job, **device.described(torch.device("cpu")))
start = time.perf_counter()
frame = lookup.resolve("experiments", job.wildcards.experiment).run(**job.params.options)
stamped_parquet.write(job.output[0], pa.Table.from_pandas(frame), made)
print(f"{counted(len(frame), 'row')} in {time.perf_counter() - start:.1f} s")
