#!/usr/bin/env bash
# Everything that wants a GPU, in one call: the CUDA checks, then benchmarks, as a Markdown file.
#
#   benchmarks/gpu.sh [FOLDER]               on a machine with a CUDA device
#   DEVICE=cpu benchmarks/gpu.sh [FOLDER]    a rehearsal in a reduced size, to know the script works
#   ONLY="checks training" benchmarks/gpu.sh some sections (checks peaks training resnet64
#                                            projections bounds)
#
# Needs Python 3.12, torch and numpy, and no network; nothing is installed. Results are written to
# FOLDER/gpu.md (default results/gpu, or $OUT where it is set) as they come, so that a call that is
# cut off loses nothing but what it was at.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-${OUT:-results/gpu}}
python=${PYTHON:-$(command -v python3 || command -v python)}
mkdir -p "$folder"
# shellcheck disable=SC2086
exec "$python" benchmarks/gpu.py --device "${DEVICE:-cuda}" --out "$folder/gpu.md" ${ONLY:+--only $ONLY}
