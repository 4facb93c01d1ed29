"""Write down where the study's results come from."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

from datetime import datetime
from pathlib import Path

from lipdescent.jobs import device
from lipdescent.jobs.progress import log_to
from lipdescent.storage import atomic, stamps
from lipdescent.study import job_stamps, provenance
from lipdescent.study.config import last_start
from lipdescent.study.recipes import Recipes

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])

made = job_stamps.of(job)
config = job.params.config
folder = Path("results", job.wildcards.study)
recipes = Recipes(job.config)
names = [] if config.get("experiments") else recipes.data_files
sets = {name: stamps.read(folder / f"datasets/{name}.npz") for name in names}
parts = [Path(one.path) for one in recipes.parts()]
place = device.describe(device.choose(job.params.device))
about = provenance.describe(place) | {
    **last_start(job.wildcards.study),
    "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    "job_seconds": provenance.job_seconds(folder / "benchmarks"),
    "made_with": provenance.makers(folder, parts),
    "datasets": {name: stamp["content"] if stamp else "" for name, stamp in sets.items()},
    "config": config,
}
with atomic.complete(job.output[0]) as partial:
    partial.write_text(stamps.document(about, made))
