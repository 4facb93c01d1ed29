"""How closely each Lipschitz bound follows the test loss over width, at the last epoch.

Spearman's and Kendall's (tau-b) rank correlation, over all widths, between the bound and the test
loss of the networks of one seed; 1: both rise and fall together. One marker per bound: the median
over seeds, with the range over seeds as a bar. Bounds are in l2. Diverged models are left out and
counted in the heading.
"""

from lipdescent import fork_server, stamps

fork_server.hand_over()

import numpy as np

from lipdescent import drawing, labels, selection, statistics
from lipdescent import figure_style as style
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])
group = selection.load(
    job.input.table, dataset=job.wildcards.dataset, architecture=job.wildcards.architecture
)
test_loss = selection.metric(group, "test_loss")[:, :, -1]
rungs, styles = selection.rungs(group, "l2"), style.rung_styles(selection.all_rungs(group))
positions, diverged = np.arange(len(group.label_noise)), group.diverged[:, :, -1]
figure, axes = style.new_figure(1, 2, width=style.TWO_COLUMNS, height=2.6, sharey=True)
measures = {
    "Spearman's rank correlation": statistics.spearman,
    "Kendall's rank correlation": statistics.kendall,
}
for place, (name, correlation) in zip(axes[0], measures.items(), strict=True):
    for shift, (rung, values) in zip(drawing.shifts(len(rungs)), rungs.items(), strict=True):
        y = statistics.correlation_over_width(correlation, values[:, :, -1], test_loss)
        drawing.points(place, positions + shift, y, **styles[rung])
    place.set_title(name)
    place.set_xlabel("label noise (%)")
    place.set_xticks(positions, [f"{100 * level:g}" for level in group.label_noise])
    place.set_xlim(-0.6, len(positions) - 0.4)
    place.axhline(0, color=style.GREY, lw=0.6)
    if not rungs or diverged.all():
        style.say_nothing_here(place, style.why_empty(diverged, "no bound in this study"))
    elif len(group.width) < statistics.MIN_POINTS:
        style.say_nothing_here(place, f"needs {statistics.MIN_POINTS} widths")
lowest = min(place.dataLim.y0 for place in axes[0])
axes[0, 0].set_ylim(min(lowest, 0.0) - 0.08, 1.08)
axes[0, 0].set_ylabel("with the test loss, over width")
handles = [drawing.key(**styles[rung] | {"linestyle": ""}) for rung in rungs]
style.legend(figure, handles, [labels.rung_name(rung) for rung in rungs], columns=5)
style.heading(figure, group, style.count(len(group.width), "width"), f"epoch {group.epoch[-1]}")
style.save(figure, job.output.pdf, job.output.png, made=stamps.of(job))
