"""The command ``lipdescent`` and what an installation holds."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import lipdescent
from lipdescent.commands import main as command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = {name: ROOT / f"scripts/{name}.py" for name in command.COMMANDS}
# A call that fails, per command, and what it says.
FAILING = {
    "bracket": (["--model", "gone.py:net", "--input-shape", "3"], "error: ", "gone.py"),
    "network": (["gone", "width=2"], "error: ", "gone: no table there; allowed is the folder of a"),
    "status": (["other"], "", "no study 'other'"),
    "archive": (["other"], "", "results/other: no study has been run there"),
}


def run(*arguments, folder):
    environ = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True
    )


def test_the_installed_command_is_a_function_of_the_library():
    module, name = PROJECT["project"]["scripts"]["lipdescent"].split(":")
    assert getattr(importlib.import_module(module), name) is command.main
    assert PROJECT["project"]["version"] == lipdescent.__version__


def test_an_installation_holds_every_module():
    """What is no package is left out without a word."""
    chosen = PROJECT["tool"]["setuptools"]["packages"]["find"]
    (where,) = chosen["where"]
    packages = set(find_packages(ROOT / where, include=chosen["include"]))
    files = (ROOT / "scripts/lipdescent").rglob("*.py")
    folders = {path.parent.relative_to(ROOT / "scripts") for path in files}
    assert packages == {".".join(folder.parts) for folder in folders}


@pytest.mark.parametrize("name", command.COMMANDS)
def test_a_script_and_its_sub_command_are_one(name, tmp_path, monkeypatch):
    arguments, start, said = FAILING[name]
    script = run(SCRIPTS[name], *arguments, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as installed:
        command.main([name, *arguments])
    assert script.returncode == 1
    # What it exits with is printed by Python, which then exits with 1.
    assert script.stderr.splitlines()[-1] == str(installed.value.code).splitlines()[-1]
    assert script.stderr.splitlines()[-1].startswith(start)
    assert said in script.stderr
    assert "Traceback" not in script.stderr


def test_help_lists_every_sub_command_and_a_mistyped_one_is_named(capsys):
    with pytest.raises(SystemExit) as done:
        command.main(["--help"])
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in command.COMMANDS)
    with pytest.raises(SystemExit) as done:
        command.main(["brackets"])
    assert done.value.code == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'brackets'" in said
    assert all(name in said for name in command.COMMANDS)
    with pytest.raises(SystemExit) as done:
        command.main(["status", "--help"])
    assert done.value.code == 0
    assert "usage: lipdescent status" in capsys.readouterr().out


def test_help_imports_no_pytorch(tmp_path):
    program = (
        "import sys; from lipdescent.commands.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = run("-c", program, folder=tmp_path)
    assert done.stdout.split() == [lipdescent.__version__, "False"], done.stderr
