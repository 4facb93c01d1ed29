"""`make verify`: what its job takes of a study."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import made_study

from lipdescent.jobs import fork_server, progress
from lipdescent.measuring import verifying


def test_every_checkpoint_of_a_small_study_is_taken_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fork_server, "hand_over", lambda: None)
    monkeypatch.setattr(progress, "log_to", lambda path: None)
    monkeypatch.setattr(verifying, "LADDER", {"linf": ("upper_layer_product",)})  # the quickest
    made_study.make({"label_noise": [0], "seed": [0], "epoch": [0, 2]})
    (stack,) = Path("results/made/checkpoints").rglob("*.safetensors")
    job = SimpleNamespace(
        log=[""],
        threads=1,
        params=SimpleNamespace(seed=0, samples=9),
        input=SimpleNamespace(checkpoints=[stack], table="results/made/table.parquet"),
        output=["verification.json"],
        config=made_study.prepared({}),
        wildcards=SimpleNamespace(study="made"),
    )
    with caplog.at_level("INFO"):
        runpy.run_path(str(made_study.ROOT / "scripts/verify.py"), {"snakemake": job})
    found = json.loads(Path("verification.json").read_text())
    assert found["broken"] == []
    assert set(found["checks"].values()) == {2}
    assert "on 2 checkpoints, 0 broken" in caplog.text
