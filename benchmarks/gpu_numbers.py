"""Tables of docs/gpu.md, taken from what gpu.py wrote on a GPU.

    python benchmarks/gpu_numbers.py benchmarks/measured/h100.md

The page that gpu.py wrote is kept as it is; of its tables those that docs/ names are taken, and
``docs_numbers.py --write`` puts them there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import docs_numbers


def tables(page: str) -> dict[str, dict[str, list]]:
    """Title, as a key -> header and rows of the table below it."""
    found = {}
    for section in page.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in lines
            if line.startswith("| ")
        ]
        if rows:
            found[re.sub(r"\W+", "_", title).strip("_").lower()] = {
                "header": rows[0],
                "rows": rows[1:],
            }
    return found


WIDE = 4096  # hidden units from which an epoch on the device takes longer than preparing it


def _rounded(cell: str) -> str:
    """Three digits, as people write them."""
    value = float(f"{float(cell):.3g}")
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def texts(page: str) -> dict:
    """What docs/ says: the tables, the device, how many checks passed, ranges of the ratios."""
    found: dict = dict(tables(page))
    device = page.splitlines()[0].removeprefix("# ")
    checks = found["checks"]["rows"]
    passed = sum(row[1] == "passed" for row in checks)
    found["device"] = re.sub(r"^cuda:\d+ \((.*)\)$", r"\1", device)
    found["versions"] = next(line for line in page.splitlines() if line.startswith("torch "))
    found["checks_passed"] = f"{passed} of {len(checks)}"
    stacks = next(v for k, v in found.items() if k.startswith("a_stack_against"))
    for row in stacks["rows"]:
        key = re.sub(r"\W+", "_", f"ratio {row[0]} {row[3]}")
        found[key], found[f"{key}_resident"] = map(_rounded, row[6:8])
    for row in found["projections_training_only"]["rows"]:
        found[re.sub(r"\W+", "_", f"hours {row[0]}")] = row[2]
    found["study_on_cuda_0"] = found["the_workflow_end_to_end_on_cuda_0"]["rows"][0][1]
    jobs = next(v for k, v in found.items() if k.startswith("when_its_jobs_ran"))["rows"]
    found["first_job"] = f"{float(jobs[0][1]):.0f} s"
    found["processor_seconds"] = f"{sum(float(row[3]) for row in jobs):.0f}"
    fused = found["projections_training_only"]["rows"][0]
    minutes = {int(w): float(m) for w, m in (one.split(":") for one in fused[3].split(","))}
    found["fused_minutes_wide"] = f"{sum(m for w, m in minutes.items() if w >= WIDE):.0f}"
    found["fused_minutes_narrow"] = f"{sum(m for w, m in minutes.items() if w < WIDE):.0f}"
    step = next(v for k, v in found.items() if k.startswith("the_fused_step"))["rows"]
    found["narrow_update"] = f"{next(float(r[4]) for r in step if r[2:4] == ['16', 'bf16x6']):.0f}"
    return found


def main() -> None:
    page = Path(sys.argv[1])
    found = texts(page.read_text())
    marked = [m for p in docs_numbers.pages() for m in docs_numbers.MARKED.findall(p.read_text())]
    used = {key for _, source, key, *_ in marked if source == "gpu"}
    date = re.search(r"20\d\d-\d\d-\d\d", page.read_text())
    texts_used = {key: text for key, text in found.items() if key in used}
    docs_numbers.store(
        "gpu",
        command=f"benchmarks/gpu.sh; python benchmarks/gpu_numbers.py {sys.argv[1]}",
        date=date[0] if date else "",
        machine=found["device"],
        repetitions="one run, each time the mean of as many calls as take a second or so",
        texts=texts_used,
    )
    print(f"{len(texts_used)} texts in docs/numbers/gpu.json")


if __name__ == "__main__":
    main()
