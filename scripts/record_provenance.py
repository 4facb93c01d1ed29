"""Write down where the study's results come from."""

from lipdescent import fork_server

fork_server.hand_over()

from datetime import datetime
from pathlib import Path

from lipdescent import config as study_config
from lipdescent import device, files, published, stamps, surroundings
from lipdescent.progress import log_to
from lipdescent.recipes import Recipes

job = snakemake  # noqa: F821
log_to(job.log[0])

made = stamps.of(job)
config = job.params.config
folder = Path("results", job.wildcards.study)
names = [] if config.get("experiments") else config["grid"]["dataset"]
tables = [str(Path(name).with_suffix(".csv")) for name in published.results(job.config)]
sets = {name: stamps.read(folder / f"datasets/{name}.npz") for name in names}
parts = [Path(one.path) for one in Recipes(job.config).parts()]
place = device.describe(device.choose(job.params.device))
about = surroundings.describe(place) | {
    **study_config.last_start(job.wildcards.study),
    "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    "job_seconds": surroundings.job_seconds(folder / "benchmarks"),
    "made_with": surroundings.makers(folder, parts),
    "datasets": {name: stamp["content"] if stamp else "" for name, stamp in sets.items()},
    "tables": {name: surroundings.digest(folder / name) for name in tables},
    "config": config,
}
with files.complete(job.output[0]) as partial:
    partial.write_text(stamps.document(about, made))
