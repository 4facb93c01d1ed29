"""Read one stack that was trained elsewhere: a width with a block of seeds, from its files."""

from lipdescent.jobs import fork_server

fork_server.hand_over(any_threads=True)

import logging
from functools import partial

import torch

from lipdescent import datasets
from lipdescent.jobs.progress import log_to
from lipdescent.jobs.words import counted
from lipdescent.plugins import lookup
from lipdescent.storage import atomic, checkpoints, stamps
from lipdescent.study import job_stamps
from lipdescent.training.draws import initial_stack
from lipdescent.training.from_files import read_stack

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
run, w = job.params.run, job.wildcards
log_to(job.log[0], label=f"{w.dataset}/{w.architecture}/width={w.width}/seeds={w.seeds}")

torch.set_num_threads(job.threads)
made = job_stamps.of(job)
with atomic.sound(job.input.dataset):
    dataset = datasets.read(job.input.dataset)
build = partial(
    lookup.resolve("architectures", job.params.module).build,
    run["width"],
    input_shape=dataset.input_shape,
    num_classes=dataset.num_classes,
    **job.params.build_options,
)
about = checkpoints.Origin(
    run=run,
    module=job.params.module,
    build=job.params.build_options,
    training=job.params.training,
    noise_maker=job.params.noise_maker,
    data=(stamps.read(job.input.dataset) or {"asked": {"options": {}}})["asked"]["options"],
)
found = read_stack(
    initial_stack(build, run["seeds"], dataset.input_shape),
    job.params.files,
    epochs=list(job.params.epochs),
    seeds=list(run["seeds"]),
    prefix=job.params.prefix,
    about=about,
)
checkpoints.write(job.output[0], found, made)
logging.getLogger("lipdescent.read").info(
    "%s, %d diverged", counted(len(job.params.files), "file"), (found.diverged_epoch >= 0).sum()
)
