"""Every speed figure and ratio of the bounds, one part after the other.

LipSDP, GeoLIP, Jacobian norms, searches, convolutions and layer norms: each part's own file says
what it compares with what. ``--solvers`` adds Clarabel at w = 64 and SCS at w = 512 for LipSDP (up
to 20 minutes each), ``--widest`` LipSDP at w = 65536, ``--quick`` takes fewer widths and
repetitions.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bounds.py [--only lipsdp,conv]
"""

from __future__ import annotations

import argparse

import bounds_conv
import bounds_geolip
import bounds_jacobian
import bounds_lipsdp
import bounds_lower
from machine import machine

PARTS = {
    "lipsdp": bounds_lipsdp,
    "geolip": bounds_geolip,
    "jacobian": bounds_jacobian,
    "lower": bounds_lower,
    "conv": bounds_conv,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,PART")
    for flag in ("quick", "solvers", "widest"):
        parser.add_argument(f"--{flag}", action="store_true")
    wanted = parser.parse_args()
    chosen = wanted.only.split(",")
    for name in chosen:
        if name not in PARTS:
            parser.error(f"--only {name}: allowed are {', '.join(PARTS)}")
    arguments: dict[str, list[str]] = {name: [] for name in PARTS}
    arguments["lipsdp"] += ["--study", "--stacks"] if not wanted.quick else []
    arguments["lipsdp"] += ["--widest"] if wanted.widest else []
    arguments["lipsdp"] += ["--clarabel", "--scs"] if wanted.solvers else []
    if wanted.quick:
        arguments["geolip"] += ["--quick"]
        arguments["jacobian"] += ["--repeats", "1"]
        arguments["lower"] += ["--seeds", "1"]
        arguments["conv"] += ["--channels", "16"]
    else:
        arguments["lower"] += ["--budget"]
    print(machine())
    for name in chosen:
        print(f"\n# {name}", flush=True)
        PARTS[name].main(arguments[name])


if __name__ == "__main__":
    main()
