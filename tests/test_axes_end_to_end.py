"""A tiny study with two further axes, from its configuration to figure, status and archive."""

import pandas as pd
import pytest
import yaml
from PIL import Image
from tiny_study import NO_BOUNDS, TINY, planned, run

from lipdescent.commands import status
from lipdescent.storage import stamps, table
from lipdescent.study import archive

FOLDER = "results/axes"
STUDY = {
    "study": "axes",
    "device": "cpu",
    "grid": {
        "dataset": ["few"], "width": [3], "label_noise": [0], "seed": [0, 1], "epoch": [0, 2],
    },
    "datasets": {"mnist1d": None, "few": {"module": "mnist1d", "num_train": 60, "num_test": 30}},
    "vary": {
        "depth": {"architectures.mlp.depth": [1, 2]},
        "num_train": {"datasets.few.num_train": [40, 60]},
    },
    "bounds": NO_BOUNDS | {"lower_jacobian": {"norms": ["l2"]}},
    "figures": [],
    "execution": TINY["execution"],
    "comparisons": ["over_axis", {"size": {"module": "over_axis", "x": "num_train"}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("axes")
    run(folder, config=STUDY)
    return folder


def test_the_table_has_a_column_per_axis_and_every_point(finished):
    frame = pd.read_csv(finished / FOLDER / "table.csv")
    rows = table.read(finished / FOLDER / "table.parquet")
    assert table.axes(rows) == {"depth": "integer", "num_train": "integer"}
    counts = frame[frame["quantity"] == "test_loss"].groupby(["depth", "num_train"]).size()
    assert counts.to_dict() == {(d, n): 4 for d in (1, 2) for n in (40, 60)}
    sizes = frame.groupby("depth")["num_parameters"].unique()
    assert sizes.map(list).to_dict() == {1: [3 * 50 + 13], 2: [3 * 50 + 9 + 16]}  # biases, too
    assert set(frame["status"]) == {"ok"}


def test_adding_a_value_plans_its_jobs_alone(finished):
    more = yaml.safe_load(yaml.safe_dump(STUDY))
    more["vary"]["num_train"] = {"datasets.few.num_train": [40, 50, 60]}
    jobs = planned(run(finished, "-n", config=more))
    assert (jobs["dataset"], jobs["train"], jobs["measure"]) == (1, 2, 2 * 2)
    assert jobs["comparison"] == 2


def test_pictures_status_and_archive_know_the_axes(finished, monkeypatch):
    monkeypatch.chdir(finished)
    for name in ("over_axis", "size"):
        with Image.open(f"{FOLDER}/figures/few/{name}.png") as picture:
            assert len(picture.convert("L").getcolors()) > 20
    told = status.report("axes")
    assert "stacks trained: 4 of 4 done" in told
    assert "measurements: 8 of 8 done" in told
    path, _ = archive.pack(FOLDER)
    assert archive.check(path) > 5
    stamp = stamps.read(
        f"{FOLDER}/checkpoints/few/mlp+depth=2+num_train=40/width=3/seeds=0-1.safetensors"
    )
    assert stamp["asked"]["run"]["point"] == {"depth": 2, "num_train": 40}
    assert stamps.read(f"{FOLDER}/table.parquet")["asked"]["axes"]["depth"] == "integer"
