"""Inject faults into a small study, run it again, and count what was lost or wrong.

    python benchmarks/faults.py [--kills 30] [--restarts 10]     (the two disk faults need root)

Each fault gets a folder of its own. The study is started, disturbed, and started again with the
same command; its table is then compared, row by row, with that of an undisturbed run. Prints one
line per fault: times injected, rows lost (missing in the end), rows wrong (another value), and
recovered (the run completed).
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from checkout import ROOT

from lipdescent.jobs import open_files
from lipdescent.storage import table

KEYS = ["width", "label_noise", "seed", "epoch", "split", "quantity", "direction", "norm"]
RULES = ("train", "measure", "table", "figure")
STUDY = {
    "study": "faults",
    "device": "cpu",
    "grid": {
        "width": [2, 3],
        "label_noise": [0, 0.2],
        "seed": [0, 1, 2, 3],
        "epoch": [0, 10, 1000],
    },
    "datasets": {"mnist1d": {"num_train": 100, "num_test": 50}},
    "execution": {"seeds_per_block": 2, "state_interval": 0.5},
    "figures": ["double_descent"],
}
RUN = "mnist1d/mlp/width=2/seeds=0-1"


class Study:
    """The study in a folder of its own."""

    def __init__(self, folder: Path, source: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results, self.source = folder, folder / "results/faults", source

    def start(self, *arguments: str) -> subprocess.Popen:
        """Snakemake, in a process group of its own."""
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(self.source / "Snakefile"),
            "--directory", str(self.folder), "--configfile", str(self.source / "study.yaml"),
            "--workflow-profile", str(ROOT / "profiles/default"), "--cores", "2", *arguments,
        ]  # fmt: skip
        log = open(self.folder.with_suffix(".log"), "ab")  # noqa: SIM115
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def run(self, *arguments: str) -> bool:
        """Whether the study completed."""
        return self.start(*arguments).wait() == 0

    def frame(self):
        """The table, by cell and quantity."""
        path = self.results / "table.parquet"
        if not path.exists():
            return None
        found = table.read(path).to_pandas()
        text = [name for name in found.columns if found[name].dtype == "category"]
        return found.astype(dict.fromkeys(text, str)).set_index(KEYS).sort_index()

    def jobs(self, rules=RULES) -> list[int]:
        """Processes of this study's jobs: those that have a log of one of the rules open."""
        logs = (self.results / "logs").resolve()
        found = set()
        for path, processes in open_files.below(logs).items():
            if Path(path).relative_to(logs).parts[0].removesuffix(".log") in rules:
                found.update(processes)
        return sorted(found)


def kill(process: int) -> bool:
    """SIGKILL; whether it was there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def killed_jobs(study: Study, times: int, dice: random.Random) -> int:
    """Jobs killed at random moments; the run goes on with the others and is started again."""
    done = 0
    while done < times:
        process = study.start("--keep-going")
        wait_until = time.monotonic() + dice.uniform(0.2, 3)
        while process.poll() is None and done < times:
            time.sleep(0.02)
            if time.monotonic() > wait_until:
                jobs = study.jobs()
                if jobs:
                    done += kill(dice.choice(jobs))
                    wait_until = time.monotonic() + dice.uniform(0.2, 3)
        ended = process.wait() == 0
        if ended and done < times:
            shutil.rmtree(study.results)
    return done


def killed_rule(rule: str):
    """Jobs of one rule killed at random moments, by asking for them anew."""

    def inject(study: Study, times: int, dice: random.Random) -> int:
        done = 0
        study.run()
        while done < times:
            process = study.start("--forcerun", rule)
            kill_at = None
            while process.poll() is None:
                jobs = study.jobs((rule,))
                if jobs and kill_at is None:
                    kill_at = time.monotonic() + dice.uniform(0, 1)
                if jobs and kill_at and time.monotonic() > kill_at:
                    done += kill(jobs[0])
                    kill_at = None
                    if done == times:
                        break
                time.sleep(0.02)
            process.wait()
        return done

    return inject


def killed_snakemake(study: Study, times: int, dice: random.Random) -> int:
    """Snakemake killed, which ends its jobs, and started again at once."""
    done = 0
    while done < times:
        process = study.start()
        try:
            process.wait(timeout=dice.uniform(2, 12))
        except subprocess.TimeoutExpired:
            done += kill(process.pid)
            process.wait()
            continue
        shutil.rmtree(study.results)  # it was quicker than the killer: from the start
    return done


def full_disk(study: Study, times: int, dice: random.Random) -> int:
    """A disk that fills up, is cleared, and fills up again."""
    done = 0
    while done < times:
        place = os.statvfs(study.folder)
        filler = study.folder / "filler"
        with open(filler, "wb") as file:
            free = place.f_bavail * place.f_bsize
            file.write(bytes(max(0, free - dice.randrange(60_000, 400_000))))
        if study.run("--keep-going"):  # the disk was large enough: from the start
            shutil.rmtree(study.results)
        else:
            done += 1
        filler.unlink()
    return done


def read_only(study: Study, times: int, dice: random.Random) -> int:
    """A results folder that becomes read-only."""
    for _ in range(times):
        process = study.start("--keep-going")
        time.sleep(dice.uniform(3, 8))
        while subprocess.run(
            ["mount", "-o", "remount,ro", str(study.folder)], capture_output=True
        ).returncode:
            if process.poll() is not None:
                break
            for job in study.jobs():
                os.kill(job, signal.SIGTERM)  # busy: files are open for writing
            time.sleep(0.05)
        process.wait()
        subprocess.run(["mount", "-o", "remount,rw", str(study.folder)], check=True)
    return times


def cut_checkpoint(study: Study, times: int, dice: random.Random) -> int:
    """A checkpoint file cut somewhere, and a measurement of it asked for."""
    study.run()
    for _ in range(times):
        path = study.results / "checkpoints" / f"{RUN}.safetensors"
        os.truncate(path, dice.randrange(path.stat().st_size))
        # Were the table there, nothing would need the checkpoint and it would not be made anew.
        (study.results / "measurements" / RUN / "metrics.parquet").unlink(missing_ok=True)
        (study.results / "table.parquet").unlink(missing_ok=True)
        study.run()
        study.run()
    return times


def foreign_measurement(study: Study, times: int, dice: random.Random) -> int:
    """A measurement of another stack in the place of one."""
    del dice
    study.run()
    for _ in range(times):
        other = RUN.replace("width=2", "width=3")
        here, there = (study.results / "measurements" / r / "metrics.parquet" for r in (RUN, other))
        shutil.copy(there, here)
        (study.results / "table.parquet").unlink()
        study.run()
        study.run()
    return times


def foreign_table(study: Study, times: int, dice: random.Random) -> int:
    """The table of another study in the place of this one's."""
    del dice
    study.run()
    for _ in range(times):
        path = study.results / "table.parquet"
        other = table.read(path).to_pandas()
        other["study"], other["value"] = "other", 123.0
        table.write(path, table.pa.Table.from_pandas(other, table.COLUMNS, preserve_index=False))
        study.run()
        study.run()
    return times


def main() -> None:
    """Print the table of faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="faults whose names contain these")
    arguments = parser.parse_args()
    few = max(1, arguments.kills // 6)
    faults = [
        ("SIGKILL of a job of any kind", killed_jobs, arguments.kills),
        ("SIGKILL of the aggregating job", killed_rule("table"), few),
        ("SIGKILL of a plotting job", killed_rule("figure"), few),
        ("SIGKILL of Snakemake in the midst of jobs", killed_snakemake, arguments.restarts),
        ("full disk", full_disk, few),
        ("results folder read-only", read_only, few),
        ("checkpoint cut short", cut_checkpoint, few),
        ("measurement of another stack in its place", foreign_measurement, few),
        ("table of another study in its place", foreign_table, few),
    ]
    dice = random.Random(arguments.seed)
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    keep = {"upper_layer_product": {"norms": ["l2"]}}
    bounds = dict.fromkeys(default["bounds"]) | keep
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        for name in ("workflow", "scripts", "config", "envs"):
            shutil.copytree(ROOT / name, source / name)
        shutil.copy(ROOT / "Snakefile", source)
        (source / "study.yaml").write_text(yaml.safe_dump(STUDY | {"bounds": bounds}))
        undisturbed = Study(Path(place) / "undisturbed", source)
        if not undisturbed.run():
            raise SystemExit(undisturbed.folder.with_suffix(".log").read_text())
        expected = undisturbed.frame()
        print(f"{len(expected)} rows; random seed {arguments.seed}\n")
        print("| fault | injected | rows lost | rows wrong | recovered |\n|---|---|---|---|---|")
        for number, (name, inject, times) in enumerate(faults):
            if not any(part in name for part in arguments.only):
                continue
            study = Study(Path(place) / f"fault{number}", source)
            disk = inject in (full_disk, read_only)
            mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(study.folder)]
            if disk and (os.geteuid() or subprocess.run(mount).returncode):
                print(f"| {name} | not without root | | | |", flush=True)
                continue
            try:
                injected = inject(study, times, dice)
                recovered = study.run()
                found = study.frame()
                same = expected.index.intersection([] if found is None else found.index)
                lost = len(expected) - len(same)
                wrong = 0
                if found is not None:
                    differs = found.loc[same, "value"].ne(expected.loc[same, "value"])
                    wrong = int(differs.sum()) + len(found.index.difference(expected.index))
            finally:
                for job in study.jobs():
                    kill(job)
                if disk:
                    subprocess.run(["umount", "--lazy", str(study.folder)], check=True)
            answer = "yes" if recovered else "NO"
            print(f"| {name} | {injected} | {lost} | {wrong} | {answer} |", flush=True)


if __name__ == "__main__":
    main()
