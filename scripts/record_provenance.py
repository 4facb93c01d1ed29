"""Write down where the study's results come from."""

from lipdescent import fork_server

fork_server.hand_over()

import json

from lipdescent import device, files, provenance
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

place = device.describe(device.choose(job.params.device))
about = provenance.describe(place) | {"config": job.params.config}
with files.complete(job.output[0]) as partial:
    partial.write_text(json.dumps(about, indent=2) + "\n")
