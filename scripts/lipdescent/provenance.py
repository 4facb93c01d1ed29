"""Where a result comes from: versions, device, revision, and the code that made it."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "safetensors", "snakemake")


def code_digest(*files: str) -> str:
    """sha256 over the contents of ``files`` and of every library module that they import.

    Paths are relative to scripts/. Only imports at a module's top level are followed, and plug-ins
    that are looked up by name have to be named. A file's time plays no part: touching it changes
    nothing.
    """
    seen: dict[Path, bytes] = {}
    todo = [SCRIPTS / file for file in files]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen[path] = path.read_bytes()
            todo += _imported(path)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(f"{path.relative_to(SCRIPTS)}\0".encode() + seen[path])
    return digest.hexdigest()[:16]


@cache
def _imported(path: Path) -> list[Path]:
    """Library files that a file imports at its top level, packages' __init__ included."""
    modules = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = []
    for module in modules:
        place = SCRIPTS.joinpath(*module.split("."))
        for parent in [place, *place.parents]:
            if parent == SCRIPTS or SCRIPTS not in parent.parents:
                break
            for file in (parent.with_suffix(".py"), parent / "__init__.py"):
                if file.is_file():
                    files.append(file)
    return files


def describe(device: str) -> dict[str, object]:
    """Versions of what computes, the machine, and the revision of this checkout."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device,
        "versions": versions,
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(SCRIPTS), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def caption(script: str) -> str:
    """A plot script's docstring, which is its figure's caption."""
    text = ast.get_docstring(ast.parse((SCRIPTS / script).read_text()))
    if not text:
        raise ValueError(f"{script} has no docstring: it is the figure's caption")
    return text
