"""Accuracy under perturbations of growing radius, all architectures, at the last epoch.

Solid: certified accuracy, the share of test points whose label provably stands within the radius;
dashed: accuracy under projected gradient descent (PGD) of that radius, an upper bound on the true
robust accuracy, which lies between. One row per norm, columns over width; the least label noise.
Lines are means over seeds, bands Student's t intervals of the mean (95 % unless configured
otherwise), with fewer than four seeds the range over them: the heading says which. Diverged models
are left out and counted in the heading.
"""

from lipdescent import fork_server, stamps

fork_server.hand_over()

import numpy as np

from lipdescent import comparison, drawing, labels, statistics
from lipdescent import figure_style as style
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])
options = job.params.statistics
groups = comparison.load(
    job.input.table, dataset=job.wildcards.dataset, architectures=list(job.params.losses)
)
looks, first = comparison.styles(groups), next(iter(groups.values()))
kinds = {"certified_accuracy": "-", "pgd_accuracy": "--"}
curves = {
    (name, norm, kind): comparison.over_radius(group, kind, norm)
    for name, group in groups.items()
    for norm in labels.NORMS
    for kind in kinds
}
curves = {key: found for key, found in curves.items() if found}
norms = [norm for norm in labels.NORMS if any(key[1] == norm for key in curves)] or ["l2"]
widths = comparison.spread(len(first.width))
figure, axes = style.new_figure(
    len(norms),
    len(widths),
    width=style.TWO_COLUMNS,
    height=0.9 + 1.9 * len(norms),
    sharex="row",
    sharey=True,
)
for (name, norm, kind), found in curves.items():
    group, radii = groups[name], np.array(list(found))
    for place, width in zip(axes[norms.index(norm)], widths, strict=True):
        values = np.stack([accuracy[width, 0, -1] for accuracy in found.values()])
        y = statistics.mean_estimate(values, confidence=options["confidence"])
        drawing.curve(place, radii, y, **looks[name] | {"linestyle": kinds[kind]})
for row, norm in zip(axes, norms, strict=True):
    row[0].set_ylabel("test accuracy")
    for place in row:
        place.set_xlabel(f"radius ({labels.NORMS[norm]})")
        if not curves:
            style.say_nothing_here(place, "no certificates\nin this study")
for place, width in zip(axes[0], widths, strict=True):
    place.set_title(f"width {first.width[width]}")
axes[0, 0].set_ylim(bottom=-0.01)
dashes = {"certified": "-", "under PGD": "--"}
keys = {label: drawing.key(color="black", linestyle=dash) for label, dash in dashes.items()}
comparison.legend(figure, looks, keys)
noise = labels.noise_name(first.label_noise[0])
band = statistics.band_name(len(first.seed), options["confidence"])
comparison.heading(figure, groups, f"label noise {noise}", f"epoch {first.epoch[-1]}", band)
style.save(figure, job.output.pdf, job.output.png, made=stamps.of(job))
