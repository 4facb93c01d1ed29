"""All architectures over the training epoch, at the largest width and the least label noise.

Train accuracy, test loss (each architecture's own training loss: with a temperature tau, the
cross-entropy of tau times the logits) and the certified bracket on the Lipschitz constant in l2
(dashed: best lower, solid: best upper bound; the true constants, averaged over seeds, lie between).
Lines are means over seeds, geometric ones but of accuracies and of losses that can be negative;
bands of train accuracy and test loss are Student's t intervals of these means (95 % unless
configured otherwise), with fewer than four seeds the range over them: the heading says which. A
ring marks the first epoch whose mean train accuracy reaches the dashed line (99.5 % unless
configured otherwise). Diverged models are left out and counted in the heading.
"""

from lipdescent import fork_server, stamps

fork_server.hand_over()

import numpy as np

from lipdescent import comparison, drawing, labels, selection, statistics
from lipdescent import figure_style as style
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])
options, losses = job.params.statistics, job.params.losses
groups = comparison.load(job.input.table, dataset=job.wildcards.dataset, architectures=list(losses))
looks = comparison.styles(groups)
figure, ((fit, test, bracket),) = style.new_figure(1, 3, width=style.TWO_COLUMNS, height=2.5)
for name, group in groups.items():
    look, epochs = looks[name], group.epoch
    found = {
        quantity: estimated(
            selection.metric(group, quantity)[-1, 0], confidence=options["confidence"]
        )
        for quantity, estimated in (
            ("train_accuracy", statistics.mean_estimate),
            ("test_loss", statistics.centre_estimate),
        )
    }
    fitted = statistics.first_reaching(
        found["train_accuracy"].value, epochs, level=options["interpolation_accuracy"]
    )
    for place, y in zip((fit, test), found.values(), strict=True):
        drawing.curve(place, epochs, y, **look)
        drawing.ring(place, epochs, y.value, fitted, look["color"])
    lower, upper = (
        statistics.geometric_mean(side[-1, 0]) for side in selection.bracket(group, "l2")
    )
    if np.isfinite(lower).any():
        drawing.bracket(bracket, epochs, lower, upper, colour=look["color"])
        drawing.ring(bracket, epochs, upper, fitted, look["color"])
fit.axhline(options["interpolation_accuracy"], color=style.GREY, linestyle="--", lw=0.7)
fit.set_ylabel("train accuracy")
test.set_ylabel(comparison.loss_label("test", losses))
bracket.set_ylabel(f"certified bracket ({labels.NORMS['l2']})")
for place in (fit, test, bracket):
    style.epoch_axis(place, group.epoch)
    place.set_xlabel("epoch")
style.log_values(test)
if bracket.lines:
    style.log_values(bracket)
else:
    style.say_nothing_here(bracket, "needs a lower and\nan upper bound")
comparison.legend(figure, looks, {"fitted": drawing.ring_key()})
noise = labels.noise_name(group.label_noise[0])
band = statistics.band_name(len(group.seed), options["confidence"])
comparison.heading(figure, groups, f"width {group.width[-1]}", f"label noise {noise}", band)
style.save(figure, job.output.pdf, job.output.png, made=stamps.of(job))
