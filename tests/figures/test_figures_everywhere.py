"""Figures are the same to the byte whatever Matplotlib's files and variables of a user say."""

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
import synthetic_study

from lipdescent.figures import _style as style
from lipdescent.storage import table

SCRIPTS = Path(style.__file__).parents[2]
DRAW = f"""
import os, runpy, sys
from types import SimpleNamespace as Some
if os.environ.get("AS_A_JOB"):
    from lipdescent.jobs import job_environment

    job_environment.fix({str(SCRIPTS)!r})
place = sys.argv[1]
statistics = {{"bootstrap": 50, "confidence": 0.9, "interpolation_accuracy": 0.995}}
of = dict(dataset="mnist1d", architecture="mlp")
asked = dict(loss="cross_entropy", statistics=statistics, options={{}}, width_unit="", figure={{}})
kinds = dict(figure="label_noise", experiment="isometry")


class Input(list):
    table = f"{{place}}/table.parquet"


for kind, name in kinds.items():
    output = [f"{{name}}.{{ending}}" for ending in ("pdf", "png", "svg")]
    job = Some(
        input=Input([f"{{place}}/experiment.parquet"]), output=output, log=[f"{{name}}.log"],
        wildcards=Some(**of, **{{kind: name}}), params=Some(module=name, **asked),
    )
    runpy.run_path("{SCRIPTS}/plot.py", {{"snakemake": job}})
"""
WORDS = ("red", "dotted", "xx-large", "monospace", "bold", "italic", "right", "center", "both",
         "in", "stix", "True", "agg", "#00ff00", "*", "black", "7", "jpeg", "plasma")  # fmt: skip


def another(key, default):
    """A value that the setting may have and has not by default; None if none was found."""
    if isinstance(default, bool):
        found = [not default]
    elif isinstance(default, int | float):
        found = [default * 3 + 1, default / 2, default + 1]
    elif isinstance(default, list | tuple) and default and isinstance(default[0], int | float):
        found = [", ".join(str(value * 2 + 0.01) for value in default)]
    else:
        found = WORDS
    for value in found:
        try:
            if matplotlib.RcParams({key: value})[key] != default:
                return value
        except (ValueError, RuntimeError):
            continue
    return None


@pytest.fixture(scope="module")
def hostile():
    """Nearly every setting, another than the default."""
    changed = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, default in matplotlib.rcParamsDefault.items():
            if key != "backend":
                changed[key] = another(key, default)
    text = {key: str(value).lstrip("#") for key, value in changed.items() if value is not None}
    assert len(text) > 250
    assert {"text.usetex", "font.size", "savefig.facecolor", "axes.facecolor"} <= set(text)
    return "".join(f"{key}: {value}\n" for key, value in text.items())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The tables to draw."""
    folder = tmp_path_factory.mktemp("tables")
    table.write(folder / "table.parquet", synthetic_study.make(seeds=(0, 1), epochs=(0, 100)))
    rows = [
        {
            "activation": kind,
            "depth": depth,
            "seed": 0,
            "smallest": low,
            "median": 0.9,
            "largest": 1,
        }
        for kind in ("relu", "maxmin")
        for depth, low in ((1, 0.5), (2, 0.25), (8, 0.0))
    ]
    pd.DataFrame(rows).to_parquet(folder / "experiment.parquet")
    return folder


def drawn(folder, place, **environ):
    """Digests of the files that a figure and an experiment give."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "MATPLOTLIB"))}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(place)], cwd=folder,
        env=kept | environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True, text=True,
    )  # fmt: skip
    logs = [path.read_text() for path in folder.glob("*.log")]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    paths = [*folder.glob("*.png"), *folder.glob("*.pdf"), *folder.glob("*.svg")]
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}


def test_a_users_matplotlibrc_and_backend_change_no_byte(hostile, place, tmp_path):
    """As jobs start; this file of a user is found without a variable, and the backend nowhere."""
    plain, users = tmp_path / "plain", tmp_path / "users"
    plain.mkdir()
    users.mkdir()
    (users / "matplotlibrc").write_text(hostile)
    expected = drawn(plain, place)
    assert len(expected) == 6
    environ = {"MPLBACKEND": "module://not_installed.backend_inline", "AS_A_JOB": "1"}
    assert drawn(users, place, **environ) == expected
