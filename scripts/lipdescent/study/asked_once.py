"""What only PyTorch can tell: asked in a process of its own, and kept for the next Snakemake.

PyTorch takes longer to import than everything else in a dry run. Never imports it.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
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
    return begin(script, tasks, **environ)()


def begin(script: str, tasks: list[Any], **environ: str) -> Callable[[], tuple[Any, str]]:
    """:func:`answer` once its result is called, which waits for it: until then it is looked for."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / script)],
        stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ | environ,
    )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # what it said of that is in its answer
        process.stdin.write(json.dumps(tasks))
        process.stdin.close()
    process.stdin = None  # or it would be closed again

    def found() -> tuple[Any, str]:
        stdout, stderr = process.communicate()
        try:
            return json.loads(stdout), ""
        except ValueError:
            said = stderr.strip().splitlines() or [f"exit status {process.returncode}"]
            return None, said[-1]

    return found


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
