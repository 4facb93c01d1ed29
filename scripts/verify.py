"""Recompute every invariant for a random sample of checkpoints; a broken one ends the run."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

import logging
import sys
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import torch

from lipdescent import datasets
from lipdescent.jobs.progress import log_to
from lipdescent.measuring import verifying
from lipdescent.measuring.as_read import as_read
from lipdescent.measuring.measure import checkpoint_stack
from lipdescent.storage import atomic, checkpoints, stamps, table
from lipdescent.study import axes, job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])
torch.set_num_threads(job.threads)
made = job_stamps.of(job)

random = np.random.default_rng(job.params.seed)
sampled = random.integers(len(job.input.checkpoints), size=job.params.samples)
whole = table.read(job.input.table)
broken: list[dict] = []
done: Counter[str] = Counter()
seen: set[tuple[int, int]] = set()  # a small study's checkpoints are drawn more than once
told = logging.getLogger("lipdescent.verify")
for number, place in enumerate(sampled, 1):
    path = job.input.checkpoints[place]
    saved = checkpoints.read(path)
    run = saved.origin.run
    file = axes.data_file(axes.at(job.config, run.get("point", {})), run["dataset"])
    dataset = datasets.read(f"results/{job.wildcards.study}/datasets/{file}.npz")
    stack = checkpoint_stack(saved, dataset)
    index = int(random.integers(stack.num_models))
    epoch, replica = divmod(index, saved.num_replicas)
    one = stack[index : index + 1]
    if (place, index) in seen or not one.finite().all():
        continue
    seen.add((place, index))
    inputs = {"train": torch.from_numpy(dataset.train_inputs)}
    one = as_read(one, inputs)
    cell = {
        **{name: run[name] for name in ("dataset", "architecture", "width")},
        **run.get("point", {}),
        "label_noise": float(saved.label_noise[replica]),
        "seed": int(saved.seed[replica]),
        "epoch": int(saved.epoch[epoch]),
    }
    checks: list[verifying.Check] = []
    for norm in verifying.LADDER:
        keep = pc.equal(whole["norm"].cast("string"), norm)
        for name, value in cell.items():
            column = whole[name]
            column = column.cast("string") if isinstance(value, str) else column
            keep = pc.and_(keep, pc.equal(column, value))
        rows = whole.filter(keep).to_pylist()
        stored = {(r["quantity"], r["direction"]): r["value"] for r in rows if r["status"] == "ok"}
        found = verifying.ladder(one, inputs, norm=norm)
        checks += verifying.check_order(found, norm=norm)
        checks += verifying.check_stored(found, stored, norm=norm)
        checks += verifying.check_devices(one, inputs, found, norm=norm)
        if norm == "l2":
            checks += verifying.check_rounding(one, found)
            checks += verifying.check_lower(one, inputs, found)
    done.update(check.name for check in checks)
    for check in checks:
        if not check.holds:
            broken.append({"cell": cell, "check": check.name, "detail": check.detail})
            print(f"BROKEN {check.name} at {cell}: {check.detail}")
    print(f"{cell}: {len(checks)} checks")
    told.info("%d of %d draws, width %d", number, len(sampled), run["width"])

told.info("%d checks on %d checkpoints, %d broken", sum(done.values()), len(seen), len(broken))
if broken:
    sys.exit(1)
with atomic.complete(job.output[0]) as partial:
    partial.write_text(stamps.document({"checks": dict(done), "broken": broken}, made))
