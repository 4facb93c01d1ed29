"""How far each certified upper bound lies above the best certified lower bound.

Upper bound over best lower bound; 1 would be the exact constant. Left: against width at the last
epoch. Middle and right: against the training epoch, at the width where interpolation starts with
the least label noise (the middle width if none does) and at the largest width. One row per norm.
Lines are geometric means over seeds of the ratio, solid for the least and dashed for the most label
noise; bands are Student's t intervals of these means (95 % unless configured otherwise), with fewer
than four seeds the range over them: the heading says which. Diverged models are left out and
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
options = job.params.statistics
group = selection.load(
    job.input.table, dataset=job.wildcards.dataset, architecture=job.wildcards.architecture
)
accuracy = statistics.mean(selection.metric(group, "train_accuracy")[:, 0, -1])
threshold = statistics.first_reaching(
    accuracy, np.arange(len(accuracy)), level=options["interpolation_accuracy"]
)
middle = int(threshold) if np.isfinite(threshold) else len(accuracy) // 2
gaps = {norm: selection.gaps(group, norm) for norm in selection.norms(group)}
gaps = {norm: found for norm, found in gaps.items() if found} or {"l2": {}}
styles = style.rung_styles(selection.all_rungs(group))
noises = dict(zip(sorted({0, len(group.label_noise) - 1}), ("-", "--"), strict=False))
figure, axes = style.new_figure(
    len(gaps), 3, width=style.TWO_COLUMNS, height=0.8 + 1.7 * len(gaps), sharex="col", sharey="row"
)
for row, (norm, ratios) in zip(axes, gaps.items(), strict=True):
    row[0].set_ylabel(f"upper / best lower ({labels.NORMS[norm]})")
    for rung, ratio in ratios.items():
        y = statistics.centre_estimate(ratio, confidence=options["confidence"])
        for noise, dash in noises.items():
            look = styles[rung] | {"linestyle": dash}
            drawing.curve(row[0], group.width, statistics.pick(y, np.s_[:, noise, -1]), **look)
            for place, width in zip(row[1:], (middle, -1), strict=True):
                drawing.curve(place, group.epoch, statistics.pick(y, np.s_[width, noise]), **look)
    if ratios:
        if group.diverged[:, list(noises), -1].all():
            style.say_nothing_here(row[0], "all models diverged")
        style.log_values(*row)
    else:
        for place in row:
            style.say_nothing_here(place, "needs a lower and\nan upper bound")
for row in axes:
    style.width_axis(row[0], group.width)
    for place in row[1:]:
        style.epoch_axis(place, group.epoch)
axes[-1, 0].set_xlabel(labels.WIDTH)
axes[0, 0].set_title(f"epoch {group.epoch[-1]}")
for column, width in zip((1, 2), group.width[[middle, -1]], strict=True):
    axes[-1, column].set_xlabel("epoch")
    axes[0, column].set_title(f"width {width}")
shown = list(dict.fromkeys(rung for ratios in gaps.values() for rung in ratios))
style.legend(
    figure,
    [drawing.key(**styles[rung]) for rung in shown]
    + [drawing.key(color="black", linestyle=dash) for dash in noises.values()],
    [labels.rung_name(rung) for rung in shown]
    + [f"label noise {labels.noise_name(group.label_noise[noise])}" for noise in noises],
    columns=5,
)
band = statistics.band_name(len(group.seed), options["confidence"])
style.heading(figure, group, band)
style.save(figure, job.output.pdf, job.output.png, made=stamps.of(job))
