#!/usr/bin/env bash
# Everything that wants a GPU, in one call: the CUDA checks, then benchmarks, as a Markdown file.
#
#   benchmarks/gpu.sh [FOLDER]               on a machine with a CUDA device
#   DEVICE=cpu benchmarks/gpu.sh [FOLDER]    a rehearsal in a reduced size, to know the script works
#   HALF=1 benchmarks/gpu.sh [FOLDER]        checks, the workflow, training: at most 6 minutes
#   HALF=2 benchmarks/gpu.sh [FOLDER]        what failed again, the fused step, projections, ...
#   ONLY="checks training" benchmarks/gpu.sh some sections (checks workflow peaks training fused
#                                            fused_tiles projections sharing bounds resnet64)
#
# Needs Python 3.12, torch, numpy and safetensors, and no network; nothing is installed but, for the
# section `workflow`, the wheels in .whl that `make gpu-wheels` puts there. Results are written to
# FOLDER/gpu.md (gpu1.md and gpu2.md of the halves; default results/gpu, or $OUT where it is set) as
# they come, so that a call that is cut off loses nothing but what it was at.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-${OUT:-results/gpu}}
python=${PYTHON:-$(command -v python3 || command -v python)}
mkdir -p "$folder"
if [ -d .whl ] && ! "$python" -c "import snakemake" 2> /dev/null; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
# As an installation has it, or each of the hundred processes of a study would compile what it imports.
unset PYTHONDONTWRITEBYTECODE
"$python" -m compileall -q -j 0 ${site:+"$site"} scripts > /dev/null || true
# shellcheck disable=SC2086
exec "$python" benchmarks/gpu.py --device "${DEVICE:-cuda}" --out "$folder/gpu.md" \
  ${ONLY:+--only $ONLY} ${HALF:+--half "$HALF" --minutes "${MINUTES:-6}"}
