"""Draw the figure of one experiment from its table."""

from lipdescent import fork_server

fork_server.hand_over()

from lipdescent import figure_style, files, names, stamped_parquet, stamps
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

draw = names.resolve("experiments", job.wildcards.experiment).draw
made = stamps.of(job)
with files.sound(job.input[0]):
    frame = stamped_parquet.read(job.input[0]).to_pandas()
figure_style.save(draw(frame), job.output.pdf, job.output.png, made=made)
