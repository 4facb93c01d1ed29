"""What the jobs of a finished study asked for and what they took (see
lipdescent/jobs/resources.py).

    python benchmarks/requests.py [STUDY]      (in the folder that holds results/)

Seconds and largest resident memory are Snakemake's, from results/STUDY/benchmarks. On a cluster
Snakemake itself takes 350-380 MB beside each job.
"""

import sys
from pathlib import Path

import checkout  # noqa: F401
import pandas as pd

from lipdescent.jobs import gpus as jobs_gpus
from lipdescent.jobs import resources
from lipdescent.jobs import status as study_status


def asked(config: dict, runs: list, stage: str, path: str) -> dict:
    """Memory (MB) and minutes that a job asks for at its first attempt."""
    gpus = jobs_gpus.gpus_per_job(config["device"])
    if stage in ("train", "measure"):
        run = next(run for run in runs if f"{path}/".startswith(f"{run.path}/"))
        if stage == "train":
            return resources.train(config, [run], gpus=gpus)
        return resources.measure(config, run, gpus=gpus, name=path.rpartition("/")[2])
    if stage == "dataset":
        return {"mem_mb": 3000, "runtime": 60}  # the profile's default
    return resources.publish(config, runs)


def main() -> None:
    """Print a line per stage."""
    study = sys.argv[1] if len(sys.argv) > 1 else "default"
    config, runs = study_status.plan(study)
    base, rows = Path("results", study, "benchmarks"), []
    for file in sorted(base.rglob("*.tsv")):
        stage, _, path = str(file.relative_to(base).with_suffix("")).partition("/")
        took = pd.read_csv(file, sep="\t", na_values="-").iloc[0]
        need = asked(config, runs, stage, path)
        rows.append((stage, took["s"] / 60, took["max_rss"], need["runtime"], need["mem_mb"]))
    frame = pd.DataFrame(rows, columns=["stage", "minutes", "mb", "minutes_asked", "mb_asked"])
    frame["share"] = frame["mb"] / frame["mb_asked"]
    print("| stage | jobs | longest, min | asked, min | most memory, MB | asked, MB | most used |")
    print("|---|---|---|---|---|---|---|")
    for stage, part in frame.groupby("stage"):
        minutes = f"{part['minutes'].max():.1f} | {part['minutes_asked'].max()}"
        memory = f"{part['mb'].max():.0f} | {part['mb_asked'].max()} | {part['share'].max():.0%}"
        print(f"| {stage} | {len(part)} | {minutes} | {memory} |")


if __name__ == "__main__":
    main()
