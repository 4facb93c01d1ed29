"""The conda file, the lock and pyproject.toml name the same packages."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA_NAMES = {"pytorch": "torch"}


def parse(requirement):
    name, constraint = re.match(r"([A-Za-z0-9_.-]+)\s*(.*)", requirement).groups()
    return CONDA_NAMES.get(name, name), constraint.replace(" ", "")


def test_conda_files_follow_pyproject():
    wanted = dict(map(parse, PROJECT["project"]["dependencies"]))
    wanted["python"] = PROJECT["project"]["requires-python"]
    for path in (ROOT / "envs").glob("*.yaml"):
        entries = yaml.safe_load(path.read_text())["dependencies"]
        plain = [e for e in entries if isinstance(e, str) and e != "pip"]
        from_pip = [p for e in entries if isinstance(e, dict) for p in e["pip"]]
        assert dict(map(parse, plain + from_pip)) == wanted


def test_the_lock_holds_every_dependency_with_hashes_and_no_address():
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock
    groups = PROJECT["dependency-groups"]
    for requirement in PROJECT["project"]["dependencies"] + groups["dev"] + groups["cluster"]:
        name = parse(requirement)[0]
        assert re.search(rf"^{re.escape(name)}==[^\n]*\\\n\s+--hash=sha256:", lock, re.M), name
