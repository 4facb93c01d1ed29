"""Take one measurement (the metrics, or one bound) of every checkpoint of one stack."""

from lipdescent.jobs import fork_server

fork_server.hand_over(any_threads=True)

import logging
import time

import torch

from lipdescent import datasets
from lipdescent.jobs import device, workers
from lipdescent.jobs.progress import log_to
from lipdescent.jobs.words import counted
from lipdescent.measuring.measure import checkpoint_stack, measure, to_table
from lipdescent.storage import atomic, checkpoints, table
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
w = job.wildcards
log_to(job.log[0], label=f"{w.dataset}/{w.architecture}/width={w.width}/seeds={w.seeds}")

threads = job.config["execution"]["threads"]
torch.set_num_threads(threads)
place = device.choose(job.config["device"] if job.resources.gpu else "cpu")
if threads == 1 and place.type == "cpu":
    workers.allow(job.threads)
made = job_stamps.of(job, threads=threads, **device.described(place))
began = time.perf_counter()
with atomic.sound(job.input.dataset):
    dataset = datasets.read(job.input.dataset)
with atomic.sound(job.input.checkpoints):
    saved = checkpoints.read(job.input.checkpoints)
stack = checkpoint_stack(saved, dataset).to(device=place)
start = None
if saved.initial and job.wildcards.measure in ("metrics", "linearised"):
    start = checkpoint_stack(saved.at_start(), dataset)

others = []
for path in job.input.get("other_seeds", []):
    with atomic.sound(path):
        more = checkpoints.read(path)
    one = checkpoint_stack(more, dataset).to(device=place)
    others.append((one, more))

rows = measure(
    job.wildcards.measure,
    stack,
    saved,
    dataset,
    options=job.params.options,
    earlier=job.input.get("earlier", []),
    start=start,
    others=others,
)
found = to_table(rows, stack, saved, study=job.wildcards.study)
table.write(job.output[0], found, made)
logging.getLogger("lipdescent.measure").info(
    "%s, %s of %s on %s in %.2f s",
    w.measure,
    counted(len(rows), "measurement"),
    counted(stack.num_models, "checkpoint"),
    device.describe(place),
    time.perf_counter() - began,
)
