"""Archives: what is packed comes back, and any change is noticed."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lipdescent.storage import stamps
from lipdescent.study import archive as archiving
from lipdescent.study import published

CONFIG = {
    "study": "some",
    "experiments": {},
    "grid": {"dataset": ["a"], "architecture": ["m"], "seed": [0]},
    "figures": ["b"],
    "comparisons": [],
    "execution": {"threads": 1},
}
# Of what is made from the table, or from an experiment.
SOURCES = {"table.parquet": {"content": "1"}, "experiments/isometry.parquet": {"content": "1"}}
MADE = {"rule": "some", "recipe": "r", "asked": {}, "inputs": SOURCES, "content": "2"}
FILES = [
    "table.parquet", "table.csv", "table.json", "findings.json", "findings.md", "findings.html",
    "explorer.html", "report.html", "figures/a/m/b.pdf", "figures/a/m/b.png",
    "figures/a/m/b.svg",
]  # fmt: skip
COUNT = len(FILES) + 2  # the plan and the provenance


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "results/some"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        document(folder / name)
    result(folder / "table.parquet")
    configured(folder, CONFIG)
    for name in ("checkpoints/big.safetensors", "figures/a/m/of_an_earlier_configuration.pdf"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not packed")
    return folder


def document(path, made=MADE, **found):
    """A published file with that stamp."""
    if path.suffix == ".json":
        path.write_text(stamps.document(found, made))
    elif path.suffix == ".png":
        about = PngInfo()
        about.add_text("Comment", stamps.as_text(made))
        Image.new("1", (1, 1)).save(path, pnginfo=about)
    else:
        text = f"content of {path.name}" * 100 + stamps.as_text(made)
        path.write_text(text + stamps.seal(text.encode()))


def result(path, content="1"):
    """A table or an experiment with a stamp of that content, and its CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    csv = path.with_suffix(".csv")
    csv.write_text("x\n1\n")
    stamp = MADE | {"inputs": {}, "content": content}
    text = {"made": json.dumps(stamps.with_companion(stamp, csv, csv))}
    whole = pa.table({"x": [1]}).replace_schema_metadata(text)
    pq.write_table(whole, path, write_page_checksum=True)


def configured(folder, config):
    for name in ("plan.json", "provenance.json"):
        document(folder / name, config=config)


def rewritten(archive, change):
    """The archive with its members (name -> content) changed."""
    with tarfile.open(archive) as tar:
        contents = {m.name: tar.extractfile(m).read() for m in tar}
    change(contents)
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_pack_and_check(study):
    archive, count = archiving.pack(study)
    assert (archive.name, count) == ("some.tar.gz", COUNT)
    assert archiving.check(archive) == COUNT
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "some/figures/a/m/b.pdf" in names
    assert not any("checkpoints" in name or "earlier" in name for name in names)


def test_the_checksums_are_those_of_sha256sum(study, tmp_path):
    subprocess.run(["tar", "xzf", archiving.pack(study)[0], "-C", tmp_path], check=True)
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"],
        cwd=tmp_path / "some",
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == COUNT


def test_a_report_is_packed_if_it_is_of_these_results(study):
    shown = [study / "findings.html", study / "figures/a/m/b.png"]
    report = study / "workflow.html"
    report.write_bytes(b"<html>" + b"".join(base64.b64encode(p.read_bytes()) for p in shown))
    os.utime(report, (0, 0))
    assert archiving.pack(study)[1] == COUNT + 1
    report.write_bytes(report.read_bytes()[:-20])
    assert archiving.pack(study)[1] == COUNT


def test_a_verification_is_packed_if_it_is_of_these_results(study):
    document(study / "verification.json")
    assert archiving.pack(study)[1] == COUNT + 1
    document(study / "verification.json", MADE | {"inputs": {"table.parquet": {"content": "3"}}})
    assert archiving.pack(study)[1] == COUNT


@pytest.mark.parametrize("name", [*FILES, "provenance.json"])
def test_a_published_file_that_was_altered_is_not_packed(study, name):
    path = study / name
    content = bytearray(path.read_bytes())
    content[2 if name.endswith(".csv") else 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(archiving.ArchiveError, match=re.escape(name)):
        archiving.pack(study)


def test_a_study_of_experiments(study):
    config = CONFIG | {"experiments": {"isometry": {}}}
    configured(study, config)
    with pytest.raises(archiving.ArchiveError, match=r"experiments/isometry\.parquet"):
        archiving.pack(study)
    result(study / "experiments/isometry.parquet")
    for name in ("figures/isometry.pdf", "figures/isometry.png", "figures/isometry.svg"):
        document(study / name)
    assert archiving.pack(study)[1] == 8


def test_what_never_ran_is_no_other_configuration(study):
    """A study of experiments inherits the default study's grid; a later default changes nothing."""
    config = CONFIG | {"experiments": {"isometry": {"seeds": [0]}}}
    (study / "provenance.json").write_text(json.dumps({"config": published.ran(config)}))
    other = config | {"grid": {"dataset": ["b"]}, "figures": [], "bounds": {"x": {}}}
    assert archiving.differs(study, other) == ""
    other = config | {"experiments": {"isometry": {"seeds": [1]}}}
    assert "another experiments than" in archiving.differs(study, other)


def test_the_same_study_gives_the_same_bytes(study):
    first = hashlib.sha256(archiving.pack(study)[0].read_bytes()).hexdigest()
    os.utime(study / "plan.json", (0, 0))
    assert hashlib.sha256(archiving.pack(study)[0].read_bytes()).hexdigest() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update({"some/plan.json": b"other"}), r"plan\.json is not what was packed"),
        (lambda c: c.pop("some/findings.md"), r"findings\.md is missing"),
        (lambda c: c.update({"some/new.md": b""}), r"new\.md has no checksum"),
        (lambda c: c.pop("some/SHA256SUMS"), "no SHA256SUMS in it"),
    ],
)
def test_changes_are_noticed(study, change, message):
    archive, _ = archiving.pack(study)
    rewritten(archive, change)
    with pytest.raises(archiving.ArchiveError, match=message):
        archiving.check(archive)


def test_a_truncated_archive_is_named(study):
    archive, _ = archiving.pack(study)
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(archiving.ArchiveError, match=r"some\.tar\.gz: truncated"):
        archiving.check(archive)


def test_an_archive_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(archiving.ArchiveError, match=r"no such file; make archive"):
        archiving.check(tmp_path / "some.tar.gz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s / "table.parquet").unlink(), r"not complete: table\.parquet missing"),
        (
            lambda s: shutil.rmtree(s / "figures"),
            r"b\.pdf, figures/a/m/b\.png, figures/a/m/b\.svg miss",
        ),
        (lambda s: (s / "plan.json").unlink(), "no study has been run there"),
        (
            lambda s: (s / "plan.json").write_text(
                json.dumps({"config": CONFIG | {"grid": CONFIG["grid"] | {"seed": [0, 1]}}})
            ),
            "made with another grid than the last run asked for",
        ),
    ],
)
def test_an_incomplete_study_is_not_packed(study, change, message):
    change(study)
    with pytest.raises(archiving.ArchiveError, match=message):
        archiving.pack(study)
    assert not study.with_name("some.tar.gz").exists()


@pytest.mark.parametrize("name", ["findings.md", "figures/a/m/b.png", "provenance.json"])
def test_what_was_made_from_another_table_is_not_packed(study, name):
    other = MADE | {"inputs": {"table.parquet": {"content": "of another study"}}}
    document(study / name, other, config=CONFIG)
    with pytest.raises(archiving.ArchiveError, match=rf"{name} was made from another"):
        archiving.pack(study)


def test_a_study_of_an_earlier_version_is_not_packed(study):
    (study / "findings.md").write_text("# Findings")
    with pytest.raises(archiving.ArchiveError, match=r"findings\.md carries no sound record"):
        archiving.pack(study)


def test_how_jobs_run_is_no_other_configuration(study):
    config = CONFIG | {"execution": {"threads": 2}}
    (study / "plan.json").write_text(json.dumps({"config": config}))
    assert archiving.pack(study)[1] == COUNT


def test_a_renamed_study_is_not_packed(study):
    other = study.rename(study.with_name("other"))
    with pytest.raises(archiving.ArchiveError, match=r"holds the study 'some', and was renamed"):
        archiving.pack(other)
    assert archiving.pack(other.rename(study))[1] == COUNT
