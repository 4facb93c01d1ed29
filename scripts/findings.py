"""What the table says, computed from it: JSON for programs, Markdown and HTML for people."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

from lipdescent.analysis.groups import group_names, load_group
from lipdescent.findings import between, document, measured, page, slopes
from lipdescent.findings.in_short import sentences
from lipdescent.jobs.progress import log_to
from lipdescent.storage import atomic, stamps
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])


def write(path: str, text: str) -> None:
    """The file appears only when complete."""
    with atomic.complete(path) as partial:
        partial.write_text(text, encoding="utf-8")


made = job_stamps.of(job)
with atomic.sound(job.input.table):
    pairs = group_names(job.input.table)
groups, at_points = [], []
for dataset, architecture in pairs:
    group = load_group(job.input.table, dataset=dataset, architecture=architecture)
    groups.append(measured.findings(group, job.params.statistics))
    if group.point:  # compared with others; without further axes one group is held at a time
        at_points.append(group)
further = slopes.over_points(at_points, job.params.statistics)
study = job.wildcards.study
blocks = document.report(study, groups, further, read_from=job.params.read_from)
apart = between.in_short(groups)
whole = {"study": study, "side_by_side": apart, "groups": groups, "slopes": further}
whole["read_from"] = job.params.read_from
write(job.output.json, stamps.document(whole, made))
write(job.output.markdown, stamps.in_comment(page.markdown(blocks), made))
as_html = page.html(blocks, title=f"Findings of study {study}")
write(job.output.html, stamps.in_comment(as_html, made))
for facts in groups:
    print("\n".join(sentences(facts)))
