"""Train one stack: a width with every label noise and a block of seeds."""

from lipdescent.jobs import fork_server

fork_server.hand_over(any_threads=True)

import json
import logging
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch

from lipdescent import datasets
from lipdescent.jobs import device, time_limit
from lipdescent.jobs.progress import Progress, log_to
from lipdescent.jobs.words import counted
from lipdescent.plugins import lookup
from lipdescent.storage import atomic, checkpoints, stamped_parquet, stamps
from lipdescent.study import job_stamps
from lipdescent.training import resume
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.replicas import noisy_labels, replicas
from lipdescent.training.stack_training import Interrupted, StackTraining

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
run, execution = job.params.run, job.config["execution"]
log_to(
    job.log[0], label="{dataset}/{architecture}/width={width}/seeds={seeds}".format(**job.wildcards)
)
logger = logging.getLogger("lipdescent.train")

stop_asked: list[int] = []
for name in ("SIGTERM", "SIGUSR1"):
    signal.signal(getattr(signal, name), lambda number, _: stop_asked.append(number))

torch.set_num_threads(execution["threads"])
torch.set_flush_denormal(True)  # the momentum of dead units decays into denormals, which are slow
place = device.choose(job.config["device"] if job.resources.gpu else "cpu")
made = job_stamps.of(job, threads=execution["threads"], **device.described(place))
options = TrainingOptions(**job.params.training)
dtype = device.set_precision(options.precision)
with atomic.sound(job.input.dataset):
    dataset = datasets.read(job.input.dataset)
noise, seeds = replicas(job.params.label_noise, run["seeds"])

build = partial(
    lookup.resolve("architectures", job.params.module).build,
    run["width"],
    input_shape=dataset.input_shape,
    num_classes=dataset.num_classes,
    **job.params.build_options,
)
labels = noisy_labels(
    dataset,
    maker=job.params.noise_maker,
    label_noise=noise,
    seeds=seeds,
    noise_seed=job.params.noise_seed,
)
data = TrainingData(
    torch.from_numpy(dataset.train_inputs).to(place, dtype), labels.to(place), dataset.num_classes
)
training = StackTraining(
    initial_stack(build, seeds, dataset.input_shape),
    data,
    seeds=seeds,
    epochs=job.params.epochs,
    options=options,
    at_once=execution["models_at_once"],
)
logger.info("%s on %s", counted(len(seeds), "model"), device.describe(place))
# Slurm ends a job at its limit: stop a little before, the job that follows goes on from there.
stop_at = (time_limit.job_end() or float("inf")) - execution["stop_before_limit"]
state_path = Path(job.output.checkpoints).with_suffix(".state")
end_state, _ = resume.end_paths(job.output.checkpoints)
try:
    training.run(
        progress=Progress(len(seeds), job.params.epochs[-1], execution["progress_interval"]),
        state_path=state_path,
        end_state=end_state,
        identity=json.dumps([job.params.code, job.params.module, job.params.build_options]),
        state_interval=execution["state_interval"],
        should_stop=lambda: bool(stop_asked) or time.time() > stop_at,
    )
except Interrupted as error:
    logger.info("%s", error)
    sys.exit(1)

about = checkpoints.Origin(
    run=run,
    module=job.params.module,
    build=job.params.build_options,
    training=job.params.training,
    noise_maker=job.params.noise_maker,
    noise_seed=job.params.noise_seed,
    data=(stamps.read(job.input.dataset) or {"asked": {"options": {}}})["asked"]["options"],
    code=stamps.digest(json.dumps(job.params.code, sort_keys=True).encode()),
)
checkpoints.write(job.output.checkpoints, training.result(noise, about), made)
curves = pd.DataFrame(
    [
        (label_noise, seed, int(epoch), loss)
        for epoch, *losses in training.curves
        for label_noise, seed, loss in zip(noise, seeds, losses, strict=True)
    ],
    columns=["label_noise", "seed", "epoch", "train_loss"],
)
stamped_parquet.write(job.output.curves, pa.Table.from_pandas(curves), made)
resume.keep_end(training.state(), job.output.checkpoints)
state_path.unlink(missing_ok=True)
diverged = int((training.diverged >= 0).sum())
if diverged:
    logger.info("%d of %s diverged", diverged, counted(len(seeds), "model"))
