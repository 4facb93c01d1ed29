"""Take one measurement (the metrics, or one bound) of every checkpoint of one stack."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

import time

import torch

from lipdescent import datasets
from lipdescent.jobs import device
from lipdescent.jobs.progress import log_to
from lipdescent.measuring import measure as measuring
from lipdescent.storage import atomic, checkpoints, table
from lipdescent.study import job_stamps

job = snakemake  # noqa: F821
terminal = log_to(job.log[0])

torch.set_num_threads(job.threads)
place = device.choose(job.config["device"])
made = job_stamps.of(job, **device.described(place))
began = time.perf_counter()
with atomic.sound(job.input.dataset):
    dataset = datasets.read(job.input.dataset)
with atomic.sound(job.input.checkpoints):
    saved = checkpoints.read(job.input.checkpoints)
stack = measuring.checkpoint_stack(saved, dataset, module=job.params.module).to(device=place)
start = None
if saved.initial and job.wildcards.measure == "metrics":
    start = measuring.checkpoint_stack(saved.at_start(), dataset, module=job.params.module)

others = []
for path in job.input.get("other_seeds", []):
    with atomic.sound(path):
        more = checkpoints.read(path)
    one = measuring.checkpoint_stack(more, dataset, module=job.params.module).to(device=place)
    others.append((one, more))

rows = measuring.measure(
    job.wildcards.measure,
    stack,
    saved,
    dataset,
    options=job.params.options,
    noise_maker=job.params.noise_maker,
    uppers=job.input.get("uppers", []),
    start=start,
    others=others,
)
found = measuring.to_table(rows, stack, saved, study=job.wildcards.study)
table.write(job.output[0], found, made)
w = job.wildcards
line = (
    f"{w.dataset}/{w.architecture}/width={w.width}/seeds={w.seeds}: {w.measure}, "
    f"{len(rows)} quantities of {stack.num_models} checkpoints on {device.describe(place)} "
    f"in {time.perf_counter() - began:.2f} s"
)
for stream in (None, terminal):
    print(line, file=stream, flush=True)
