"""What only PyTorch can tell: asked in a process of its own, and kept for the next Snakemake.

PyTorch takes longer to import than everything else in a dry run. Never imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lipdescent.storage import atomic

SCRIPTS = Path(__file__).resolve().parents[2]
FOLDER = Path(".snakemake/lipdescent")


def answer(script: str, tasks: list[Any], **environ: str) -> tuple[Any, str]:
    """What a script of this folder prints, as JSON, about ``tasks``; or None, and why.

    Parameters
    ----------
    script : file in scripts/, which reads the tasks as JSON.
    environ : variables beside this process's.
    """
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script)],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        env=os.environ | environ,
    )
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return None, said[-1]


def kept(name: str) -> dict[str, Any]:
    """What has been kept under a name; nothing where that cannot be read."""
    try:
        found = json.loads((FOLDER / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(name: str, found: dict[str, Any]) -> None:
    """Where it cannot be kept, the next Snakemake asks again."""
    with contextlib.suppress(OSError), atomic.complete(FOLDER / f"{name}.json") as partial:
        partial.write_text(json.dumps(found))
