"""What provenance.json says of the machine and of the checkout."""

import hashlib
import json
import os
import shutil
import subprocess

import pyarrow as pa
import pytest

from lipdescent.storage import stamped_parquet
from lipdescent.study import provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for name, text in {"a.py": "x = 1", "b.py": "x = 2", ".gitignore": "results/"}.items():
        (tmp_path / name).write_text(text)
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    return tmp_path


def test_a_clean_checkout_has_no_changes(checkout):
    (checkout / "results").mkdir()
    (checkout / "results/table").write_text("ignored")
    assert provenance.changes() == ({}, {})
    assert provenance.describe("cpu")["uncommitted_changes"] is False


def test_changed_and_untracked_files_are_named_with_their_digests(checkout):
    (checkout / "a.py").write_text("x = 3")
    (checkout / "b.py").unlink()
    own = checkout / "bounds" / "my bound.py"
    own.parent.mkdir()
    own.write_text("y")
    about = provenance.describe("cpu")
    assert about["uncommitted_changes"] is True
    assert about["changed_files"] == {
        "a.py": hashlib.sha256(b"x = 3").hexdigest(), "b.py": "deleted"
    }  # fmt: skip
    assert about["untracked_files"] == {"bounds/my bound.py": hashlib.sha256(b"y").hexdigest()}


def test_a_copy_in_another_repository_has_no_revision(checkout, monkeypatch):
    """It is not the revision of these files, and whether they changed is not known."""
    copy = checkout / "copied"
    copy.mkdir()
    (copy / "a.py").write_text("x = 1")
    monkeypatch.setattr(provenance, "CHECKOUT", copy)
    about = provenance.describe("cpu")
    assert (about["revision"], about["uncommitted_changes"]) == ("", None)
    assert about["changed_files"] == about["untracked_files"] == {}


def test_a_folder_of_a_repository_names_its_own_changes(checkout, monkeypatch):
    whole = provenance.describe("cpu")["revision"]
    (checkout / "b.py").write_text("elsewhere")
    part = checkout / "part"
    part.mkdir()
    for name in ("a.py", "b.py"):
        (part / name).write_text(name)
    subprocess.run(["git", "add", "part/a.py"], cwd=checkout, check=True)
    monkeypatch.setattr(provenance, "CHECKOUT", part)
    about = provenance.describe("cpu")
    assert about["revision"] == whole
    assert about["changed_files"] == {"a.py": hashlib.sha256(b"a.py").hexdigest()}
    assert about["untracked_files"] == {"b.py": hashlib.sha256(b"b.py").hexdigest()}


def test_names_that_are_no_text_are_listed(checkout):
    name = os.fsdecode(b"caf\xe9.py")
    (checkout / name).write_text("x")
    about = provenance.describe("cpu")
    assert about["untracked_files"] == {name: hashlib.sha256(b"x").hexdigest()}
    assert name in json.loads(json.dumps(about))["untracked_files"]


def test_a_study_of_two_machines_names_both(tmp_path):
    def file(name, **by):
        path = tmp_path / "checkpoints" / name
        made = {"rule": "train", "recipe": "1", "inputs": {}, "by": by}
        stamped_parquet.write(path, pa.table({"x": [1]}), made)
        return path

    paths = [file(f"{n}.parquet", device="cpu", torch="2.1") for n in range(2)]
    paths += [file("c.parquet", device="cuda:0", torch="2.2"), tmp_path / "checkpoints/gone"]
    assert provenance.makers(tmp_path, paths) == {
        "train": [
            {"device": "cpu", "torch": "2.1", "files": 2},
            {"device": "cuda:0", "torch": "2.2", "files": 1},
        ],
        "unknown (checkpoints)": [{"files": 1}],
    }


def test_machine_and_libraries_are_named():
    about = provenance.describe("cpu")
    assert about["versions"]["torch"].startswith("2.")
    assert about["cpu"]["model"]
    assert about["cpu"]["cores"] >= 1
    assert about["blas"]["torch"]
    assert len(about["lock_file"]) == 64


def test_seconds_of_jobs_are_summed_by_rule(tmp_path):
    for name, seconds in {"train/d/x.tsv": 1.5, "train/d/y.tsv": 2, "table.tsv": 0.25}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")
    assert provenance.job_seconds(tmp_path) == {"train": 3.5, "table": 0.25}
