"""A plug-in to begin with: `make plugin KIND=bounds NAME=my_bound`.

It is the example of CONTRIBUTING.md with its imports. KIND is the folder that plug-ins of the kind
lie in, below scripts/lipdescent.
"""

import ast
import keyword
import re
import subprocess
import sys
from pathlib import Path

from lipdescent.plugins import lookup

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
# Name in the examples -> what makes it known.
IMPORTS = {
    "Dataset": "from lipdescent.datasets import Dataset",
    "Figure": "from matplotlib.figure import Figure",
    "Group": "from lipdescent.analysis.groups import Group",
    "Iterator": "from collections.abc import Iterator",
    "Mapping": "from collections.abc import Mapping",
    "Measurement": "from lipdescent.measurement import Measurement",
    "ModelStack": "from lipdescent.stacks.model_stack import ModelStack",
    "Points": "from lipdescent.points._parts import Points",
    "Sequence": "from collections.abc import Sequence",
    "Tensor": "from torch import Tensor",
    "labels": "from lipdescent.analysis import labels",
    "ladder": "from lipdescent.analysis import ladder",
    "math": "import math",
    "nn": "from torch import nn",
    "np": "import numpy as np",
    "pairwise": "from itertools import pairwise",
    "pd": "import pandas as pd",
    "refuse_other_norms": "from lipdescent.measurement import refuse_other_norms",
    "take": "from lipdescent.datasets import take",
    "torch": "import torch",
}


def examples() -> dict[str, tuple[str, str, str]]:
    """Kind -> name of the guide's example, where a configuration names one, and its source."""
    code = GUIDE.read_text().partition("```python\n")[2].partition("```")[0]
    parts = re.split(r"^# (?:\w+/)?(\w+)/(\w+)\.py, (.*)\n", code, flags=re.MULTILINE)[1:]
    return dict(
        zip(parts[::4], zip(parts[1::4], parts[2::4], parts[3::4], strict=True), strict=True)
    )


def source(kind: str, name: str) -> str:
    """The example of a kind as a file: its docstring, what it imports, its code."""
    example = examples()[kind][2].strip()
    if kind == "bounds":  # whose measurements have the file's name
        example = example.replace(f'"{examples()[kind][0]}"', f'"{name}"')
    tree = ast.parse(example)
    start = tree.body[0].end_lineno if ast.get_docstring(tree) else 0
    head, code = (example.splitlines()[part] for part in (slice(start), slice(start, None)))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    made = "\n".join([*head, *(line for name, line in IMPORTS.items() if name in names), *code])
    for change in (["check", "--select", "I,F401", "--fix", "--quiet"], ["format"]):
        made = subprocess.run(
            ["ruff", *change, "--stdin-filename", f"{kind}.py", "-"],
            input=made, capture_output=True, check=True, cwd=GUIDE.parent, text=True,
        ).stdout  # fmt: skip
    return made


def write(kind: str, name: str) -> str:
    """Write it below scripts/lipdescent and say what comes next.

    Raises
    ------
    ValueError
        If there is no such kind, the name is none of a public module, or it is taken.
    """
    lookup.check("KIND", kind, sorted(examples()))
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError(
            f"NAME={name}: a plug-in has a name of Python's that is no keyword and begins with no "
            "'_'"
        )
    path = lookup.LIBRARY / lookup.place(kind) / f"{name}.py"
    if path.exists():
        raise ValueError(f"{kind}/{name}.py exists already: choose another NAME")
    path.write_text(source(kind, name))
    said = [f"wrote {path.relative_to(GUIDE.parent)}; in a configuration: {examples()[kind][1]}"]
    tests = f"tests/{lookup.place(kind)}/test_contract.py"
    if (GUIDE.parent / tests).exists():
        contract = (path.parent / "_contract.py").relative_to(GUIDE.parent)
        said.append(f"{contract} says what is asked of it")
        said.append(f"holds it to that: .venv/bin/python -m pytest {tests} -k {name}")
    return "\n".join(said)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"{__doc__}\nKIND: {', '.join(sorted(examples()))}")
    try:
        print(write(*sys.argv[1:]))
    except ValueError as error:
        raise SystemExit(str(error)) from None
