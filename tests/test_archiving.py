"""Archives: what is packed comes back, and any change is noticed."""

import hashlib
import io
import os
import tarfile

import pytest

from lipdescent import archiving


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "results/some"
    for name in ("table.parquet", "provenance.json", "plan.json", "figures/a/b.pdf", "findings.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}" * 100)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/big.safetensors").write_text("not packed")
    return folder


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
    assert (archive.name, count) == ("some.tar.gz", 5)
    assert archiving.check(archive) == 5
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "some/figures/a/b.pdf" in names
    assert not any("checkpoints" in name for name in names)


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


def test_an_incomplete_study_is_not_packed(study):
    (study / "table.parquet").unlink()
    with pytest.raises(archiving.ArchiveError, match=r"not complete: table\.parquet missing"):
        archiving.pack(study)
    assert not study.with_name("some.tar.gz").exists()
