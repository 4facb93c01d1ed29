"""One page to explore the table with, in any browser and without a network."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

from lipdescent.analysis.groups import group_names, load_group
from lipdescent.explorer.contents import contents
from lipdescent.explorer.page import html
from lipdescent.jobs.progress import log_to
from lipdescent.storage import atomic, stamps
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])

made = job_stamps.of(job)
with atomic.sound(job.input.table):
    pairs = group_names(job.input.table)
groups = [
    load_group(job.input.table, dataset=dataset, architecture=architecture)
    for dataset, architecture in pairs
]
found = contents(groups, confidence=job.params.statistics["confidence"])
page = html(found)
with atomic.complete(job.output[0]) as partial:
    partial.write_text(stamps.in_comment(page, made), encoding="utf-8")
print(f"{len(page) / 1e6:.1f} MB, {'all seeds' if found['whole'] else found['said']}")
