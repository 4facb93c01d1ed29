"""Every Lipschitz bound of the study over width, at the last epoch.

Solid lines: certified upper bounds; dashed: certified lower bounds, the largest over all the data
they were taken on; dotted: estimates, whose rounding is not proved. The true constants, averaged
over seeds, lie in the grey region between the best of each. One row per norm, columns from the
least to the most label noise. Lines are geometric means over seeds; bands are Student's t intervals
of these means (95 % unless configured otherwise), with fewer than four seeds the range over them:
the heading says which. Diverged models are left out and counted in the heading.
"""

from lipdescent import fork_server, stamps

fork_server.hand_over()

from lipdescent import drawing, labels, selection, statistics
from lipdescent import figure_style as style
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])
options = job.params.statistics
group = selection.load(
    job.input.table, dataset=job.wildcards.dataset, architecture=job.wildcards.architecture
)
rungs = selection.all_rungs(group)
styles, norms = style.rung_styles(rungs), selection.norms(group) or ["l2"]
last = len(group.label_noise) - 1
noises = sorted({0, last // 2, last})
figure, axes = style.new_figure(
    len(norms),
    len(noises),
    width=style.TWO_COLUMNS,
    height=0.8 + 2.0 * len(norms),
    sharex=True,
    sharey="row",
)
for row, norm in zip(axes, norms, strict=True):
    row[0].set_ylabel(f"Lipschitz bound ({labels.NORMS[norm]})")
    lower, upper = (
        statistics.geometric_mean(side[:, :, -1]) for side in selection.bracket(group, norm)
    )
    for place, noise in zip(row, noises, strict=True):
        place.fill_between(group.width, lower[:, noise], upper[:, noise], color="0.88", lw=0)
        for rung, values in selection.rungs(group, norm).items():
            y = statistics.centre_estimate(values[:, noise, -1], confidence=options["confidence"])
            drawing.curve(place, group.width, y, **styles[rung])
        diverged = group.diverged[:, noise, -1]
        if not rungs or diverged.all():
            style.say_nothing_here(place, style.why_empty(diverged, "no bound in this study"))
    if rungs:
        style.log_values(*row)
for place, noise in zip(axes[0], noises, strict=True):
    place.set_title(f"label noise {labels.noise_name(group.label_noise[noise])}")
for place in axes[-1]:
    place.set_xlabel(labels.WIDTH)
for place in axes.flat:
    style.width_axis(place, group.width)
handles = [drawing.key(**styles[rung]) for rung in rungs]
style.legend(figure, handles, [labels.rung_name(rung) for rung in rungs], columns=5)
band = statistics.band_name(len(group.seed), options["confidence"])
style.heading(figure, group, f"epoch {group.epoch[-1]}", band)
style.save(figure, job.output.pdf, job.output.png, made=stamps.of(job))
