"""The study's start page: what was found, the figures, where to go on, and how it was made."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

import json
from pathlib import Path

from lipdescent.findings.headlines import headlines
from lipdescent.findings.page import Points, Short
from lipdescent.jobs.progress import log_to
from lipdescent.report.header import header
from lipdescent.report.page import Shown, html
from lipdescent.storage import atomic, stamps
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])


def document(path: Path) -> dict:
    """One of the study's JSON files, which the page is made from."""
    with atomic.sound(path):
        return json.loads(path.read_text(encoding="utf-8"))


made = job_stamps.of(job)
folder = Path(job.output[0]).parent
findings = folder / "findings.json"
found = document(findings) if str(findings) in job.input else {"groups": [], "side_by_side": {}}
apart = {
    f"{dataset}: architectures side by side": Short(own)
    for dataset, own in found["side_by_side"].items()
}
page = html(
    job.wildcards.study,
    answers=apart
    | {
        f"{one['dataset']}, {one['architecture']}": (
            Short(one["in_short"]) if one["in_short"] else Points(headlines(one))
        )
        for one in found["groups"]
    },
    figures=[Shown(t, c, (folder / name).read_bytes()) for name, t, c in job.params.figures],
    links=job.params.links,
    header=header(document(folder / "provenance.json")),
)
with atomic.complete(job.output[0]) as partial:
    partial.write_text(stamps.in_comment(page, made), encoding="utf-8")
