"""In what state a study is: python scripts/status.py [STUDY] (or make status STUDY=name)."""

import argparse
from collections import Counter

from lipdescent import study_status as status


def report(study: str) -> str:
    """The study's state as text."""
    config, runs = status.plan(study)
    found = status.jobs(config, runs)
    lines = []
    for stage, unit in (("train", "stacks trained"), ("measure", "measurements")):
        count = Counter(job.state for job in found if job.stage == stage)
        others = [f"{count[s]} {s}" for s in ("running", "failed", "waiting") if count[s]]
        lines.append(", ".join([f"{unit}: {count['done']} of {count.total()} done", *others]))
    models = len(config["grid"]["label_noise"])
    trained = [job.run for job in found if job.stage == "train" and job.state == "done"]
    bad = {run: status.diverged(config, run) for run in trained}
    of = sum(models * len(run.seeds) for run in trained)
    lines.append(f"models diverged: {sum(bad.values())} of {of}")
    lines += [f"  {run.path}: {count}" for run, count in bad.items() if count]
    published = [
        f
        for f in ("table.parquet", "findings.md", "provenance.json")
        if (status.Path("results", study) / f).exists()
    ]
    lines.append(f"published: {', '.join(published) or 'nothing yet'}")
    lines.append(f"disk: {status.disk_bytes(status.Path('results', study)) / 2**20:.1f} MiB")
    left, running = status.seconds_left(config, found), sum(j.state == "running" for j in found)
    if left is None:
        lines.append("time left: unknown, nothing has been measured yet")
    else:
        wall = f", {left / running / 60:.1f} min with the {running} that run" if running else ""
        lines.append(f"time left: {left / 60:.1f} min of jobs{wall}")
    for job in found:
        if job.state == "failed":
            lines.append(f"failed: {job.stage} {job.run.path} {job.measure}".rstrip())
            lines += [f"  | {line}" for line in status.last_lines(job.log)]
            lines.append(f"  log: {job.log}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", default="default")
    try:
        print(report(parser.parse_args().study))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
