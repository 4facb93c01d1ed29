"""What of a user's environment does not reach the jobs, for it would reach their results."""

import contextlib
import locale
import os
from pathlib import Path

FIXED = {
    # Figures look the same whatever Matplotlib's file of the user says, and need no screen.
    "MPLBACKEND": "agg",
    "MATPLOTLIBRC": os.devnull,
    # Files are UTF-8 whatever the language of the terminal.
    "PYTHONUTF8": "1",
}
# They would round the products of a configuration that asks for float32.
REMOVED = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


def fix(scripts: Path) -> None:
    """For every process that this one starts; files that it reads itself are UTF-8 as well.

    ``scripts`` comes first where jobs look for modules: another ``lipdescent``, installed or in
    PYTHONPATH, would compute in place of the one whose digests the results bear.
    """
    os.environ.update(FIXED)
    for name in REMOVED:
        os.environ.pop(name, None)
    others = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    first = str(scripts)
    others = [place for place in others if place != first]
    os.environ["PYTHONPATH"] = os.pathsep.join([first, *others])
    if locale.getpreferredencoding(False).upper().replace("-", "") != "UTF8":
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
