"""A study of 100,000 models on paper: job graph, table of 1.2 million checkpoints, its pages.

    python benchmarks/scale.py [FIGURE ...]      (all of the default study, or those named)

20 widths x 10 noise levels x 500 seeds x 12 epochs, seeds in blocks of 50. Measurements are drawn
at random in the files' real format; aggregating and plotting run the workflow's own scripts. Prints
seconds (wall clock and CPU) and the largest resident memory of each step, beside their limits; with
all figures the table goes to docs/cluster.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import docs_numbers
import numpy as np
import yaml
from checkout import ROOT
from machine import machine

from lipdescent.storage import table

WIDTHS = [4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512]
NOISE = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5]
EPOCHS = [0, 1, 2, 4, 8, 15, 30, 55, 100, 170, 290, 500]
HEADER = ["step", "seconds", "of CPU", "limit", "memory, MiB", "limit"]
SEEDS, BLOCK = 500, 50
METRICS = [
    ("train_loss", "train"),
    ("train_accuracy", "train"),
    ("train_loss_clean", "train"),
    ("train_accuracy_clean", "train"),
    ("test_loss", "test"),
    ("test_accuracy", "test"),
    ("distance_from_init", ""),
]
JACOBIANS = ("lower_jacobian", "jacobian_norm_mean", "jacobian_norm_rms")
STUDY = {
    "study": "scale",
    "device": "cpu",
    "grid": {"width": WIDTHS, "label_noise": NOISE, "seed": list(range(SEEDS)), "epoch": EPOCHS},
    "execution": {"seeds_per_block": BLOCK},
}
SHIM = """
import json, sys, resource, types, time
import builtins
given = json.load(open(sys.argv[1]))
class Names(list):
    def __init__(self, values):
        super().__init__(values.values() if isinstance(values, dict) else values)
        self.__dict__.update(values if isinstance(values, dict) else {})
builtins.snakemake = types.SimpleNamespace(
    config=given.pop("config", {}), **{name: Names(value) for name, value in given.items()})
exec(compile(open(sys.argv[2]).read(), sys.argv[2], "exec"), {"__name__": "__main__"})
"""


def measured(command: list[str], **keywords) -> tuple[float, float, float]:
    """Seconds, CPU seconds and largest resident memory in MiB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, **keywords)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"(ended with {process.returncode})", file=sys.stderr)
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, cpu, usage.ru_maxrss / 1024


def job_graph(folder: Path) -> tuple[float, float, float]:
    """A dry run of the whole study."""
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(STUDY))
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run",
        "--directory", str(folder), "--configfile", str(overlay), "--quiet", "all", "--cores", "1",
    ]  # fmt: skip
    return measured(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measurements(folder: Path) -> list[str]:
    """Files of every stack and measurement, with values in the right order of magnitude."""
    random, paths = np.random.default_rng(0), []
    for width in WIDTHS:
        for first in range(0, SEEDS, BLOCK):
            seeds = np.arange(first, first + BLOCK)
            noise, seed = (a.ravel() for a in np.meshgrid(NOISE, seeds, indexing="ij"))
            epoch = np.repeat(EPOCHS, len(seed))
            count = len(epoch)
            lower = random.lognormal(1, 0.3, count)
            series = {
                "metrics": [(n, "metric", "", s, random.random(count)) for n, s in METRICS],
                "lower_jacobian": [
                    (name, "lower" if name[:5] == "lower" else "metric", norm, split, lower)
                    for name in JACOBIANS
                    for norm in ("l2", "linf")
                    for split in ("train", "test")
                ],
                "upper_layer_product": [
                    ("upper_layer_product", "upper", norm, "", 3 * lower) for norm in ("l2", "linf")
                ],
            }
            for measure, columns in series.items():
                place = f"mnist1d/mlp/width={width}/seeds={first}-{first + BLOCK - 1}"
                path = folder / f"results/scale/measurements/{place}/{measure}.parquet"
                parts = [
                    table.from_columns(
                        count, study="scale", dataset="mnist1d", architecture="mlp", width=width,
                        num_parameters=50 * width, label_noise=np.tile(noise, len(EPOCHS)),
                        seed=np.tile(seed, len(EPOCHS)), epoch=epoch, split=split, quantity=name,
                        direction=direction, norm=norm, value=value, status="ok",
                    )
                    for name, direction, norm, split, value in columns
                ]  # fmt: skip
                table.write(path, table.concatenate(parts))
                paths.append(str(path.relative_to(folder)))
    return paths


def script(folder: Path, name: str, **job) -> tuple[float, float, float]:
    """Run one of the workflow's scripts as Snakemake would."""
    given = folder / "job.json"
    given.write_text(json.dumps(job))
    command = [sys.executable, "-c", SHIM, str(given), str(ROOT / "scripts" / name)]
    environ = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    return measured(command, cwd=folder, env=environ)


def main() -> None:
    """Print the table; of all figures, record it."""
    rows: list[list[str]] = []
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        say(rows, "job graph, 100,000 models", job_graph(folder), 15, 1024)
        paths = measurements(folder)
        aggregate = script(
            folder, "aggregate.py", input=paths, log=["log"],
            output={"parquet": "results/scale/table.parquet", "csv": "results/scale/table.csv",
                    "words": "results/scale/table.json"},
            params={"axes": {}}, config=config,
        )  # fmt: skip
        count = table.pq.read_metadata(folder / "results/scale/table.parquet").num_rows
        say(rows, f"aggregate {len(paths)} files, {count:,} rows", aggregate, 60, 4096)
        given = {"input": {"table": "results/scale/table.parquet"}, "log": ["log"]}
        statistics = {"statistics": config["statistics"]}
        for name in sys.argv[1:] or config["figures"]:
            figure = script(
                folder, "plot.py", **given, output=["f.pdf", "f.png", "f.svg"],
                wildcards={"dataset": "mnist1d", "architecture": "mlp", "figure": name},
                params={**statistics, "loss": config["training"]["loss"], "module": name,
                        "options": {}, "figure": config["figure"], "width_unit": "units"},
            )  # fmt: skip
            say(rows, f"figure {name}", figure, 120, 4096)
        kinds = {"json": "f.json", "markdown": "f.md", "html": "f.html"}
        for name, output in (("findings", kinds), ("explorer", ["e.html"])):
            found = script(
                folder, f"{name}.py", **given, output=output, params=statistics,
                wildcards={"study": "scale"},
            )  # fmt: skip
            say(rows, name, found, 120, 4096)
        size = (folder / "e.html").stat().st_size / 1e6
        print(f"\nThe explorer is of {size:.1f} MB: {(folder / 'log').read_text().splitlines()[0]}")
    if not sys.argv[1:]:
        docs_numbers.record(
            "scale",
            command="python benchmarks/scale.py",
            machine=machine(),
            repetitions="once",
            texts={"scale": {"header": HEADER, "rows": rows}, "explorer": f"{size:.1f} MB"},
        )


def say(
    rows: list[list[str]], name: str, found: tuple[float, float, float], limit: float, most: float
) -> None:
    """One line of the table."""
    seconds, cpu, memory = found
    rows.append([name, f"{seconds:.1f}", f"{cpu:.1f}", f"{limit}", f"{memory:.0f}", f"{most}"])
    print(f"| {' | '.join(rows[-1])} |", flush=True)


if __name__ == "__main__":
    main()
