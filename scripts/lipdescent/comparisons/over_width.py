"""All architectures over width, at the last epoch; columns from the least to the most label noise.

Train accuracy on the labels trained on, noisy ones included; test loss (each architecture's own
training loss: with a temperature tau, the cross-entropy of tau times the logits); the certified
bracket on the Lipschitz constant in l2 (dashed: best lower, solid: best upper bound; the true
constants, averaged over seeds, lie between); and, where certificates were measured, the mean l2
radius within which the labels trained on are certain, wrong ones counted as 0: the margin relative
to the constant. Lines are means over seeds, geometric ones but of accuracies and of losses that can
be negative; bands are Student's t intervals of these means (95 % unless configured otherwise), with
fewer than four seeds the range over them: the heading says which. A ring marks the first width
whose mean train accuracy reaches the dashed line (99.5 % unless configured otherwise). Diverged
models are left out and counted in the heading.
"""

from lipdescent import fork_server, stamps

fork_server.hand_over()

import numpy as np

from lipdescent import comparison, drawing, labels, selection, statistics
from lipdescent import figure_style as style
from lipdescent.progress import log_to
from lipdescent.selection import Series

BRACKET = None
job = snakemake  # noqa: F821
log_to(job.log[0])
options, losses = job.params.statistics, job.params.losses
groups = comparison.load(job.input.table, dataset=job.wildcards.dataset, architectures=list(losses))
looks, first = comparison.styles(groups), next(iter(groups.values()))
panels = {
    "train accuracy": Series("train_accuracy", "metric", "", "train"),
    comparison.loss_label("test", losses): Series("test_loss", "metric", "", "test"),
    f"certified bracket ({labels.NORMS['l2']})": BRACKET,
    "mean certified\nradius (train)": Series("mean_certified_radius", "metric", "l2", "train"),
}
panels = {
    title: what
    for title, what in panels.items()
    if what is BRACKET or any(what in group.series for group in groups.values())
}
noises = comparison.spread(len(first.label_noise))
figure, axes = style.new_figure(
    len(panels),
    len(noises),
    width=style.TWO_COLUMNS,
    height=0.8 + 1.6 * len(panels),
    sharex=True,
    sharey="row",
)
for name, group in groups.items():
    look, accuracy = looks[name], statistics.mean(selection.metric(group, "train_accuracy"))
    sides = [statistics.geometric_mean(side[:, :, -1]) for side in selection.bracket(group, "l2")]
    for column, noise in enumerate(noises):
        fitted = statistics.first_reaching(
            accuracy[:, noise, -1], group.width, level=options["interpolation_accuracy"]
        )
        for place, what in zip(axes[:, column], panels.values(), strict=True):
            if what is BRACKET and np.isfinite(sides).any():
                lower, upper = (side[:, noise] for side in sides)
                drawing.bracket(place, group.width, lower, upper, colour=look["color"])
                drawing.ring(place, group.width, upper, fitted, look["color"])
            elif what in group.series:
                values = group.series[what][:, noise, -1]
                plain = what.quantity == "train_accuracy"
                estimated = statistics.mean_estimate if plain else statistics.centre_estimate
                y = estimated(values, confidence=options["confidence"])
                drawing.curve(place, group.width, y, **look)
                drawing.ring(place, group.width, y.value, fitted, look["color"])
for row, title in zip(axes, panels, strict=True):
    row[0].set_ylabel(title)
    if not any(place.lines for place in row):
        for place in row:
            style.say_nothing_here(place, "needs a lower and\nan upper bound")
    elif title != "train accuracy":
        style.log_values(*row)
for column, noise in enumerate(noises):
    axes[0, column].axhline(
        options["interpolation_accuracy"], color=style.GREY, linestyle="--", lw=0.7
    )
    axes[0, column].set_title(f"label noise {labels.noise_name(first.label_noise[noise])}")
    axes[-1, column].set_xlabel("width")
for place in axes.flat:
    style.width_axis(place, first.width)
comparison.legend(figure, looks, {"first width that fits": drawing.ring_key()})
band = statistics.band_name(len(first.seed), options["confidence"])
comparison.heading(figure, groups, f"epoch {first.epoch[-1]}", band)
style.save(figure, job.output.pdf, job.output.png, made=stamps.of(job))
