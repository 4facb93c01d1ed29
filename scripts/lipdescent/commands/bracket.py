"""Certified bracket of a network's Lipschitz constant, for a network that was not trained here.

    lipdescent bracket --model FILE.py:FUNCTION --weights W.safetensors \\
        --input-shape 1,28,28 --norm l2 [--data X.npz] [--methods a,b] [--seed 0] [--budget 20] \\
        [--domain everywhere | box:0,1 | ball:l2:0.1]

From a clone, without installation: python scripts/bracket.py in place of lipdescent bracket.

FUNCTION takes no arguments and returns an nn.Module; instead of a file a module's name will do,
such as torchvision.models:resnet18. Without --weights those that FUNCTION returns are measured.
X.npz holds floating-point inputs (n, *input_shape), one array per split (X.npy: one array);
without it lower bounds start from standard normal points. --budget is about how many seconds each
of them may take. --domain: bounds on the box [0, 1]^d, or on balls around the points of --data
(the largest of them). Prints every bound, rounded outwards, the best bracket and its ratio; what is
under way goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lipdescent.bracketing.bracket import NORMS, bracket
from lipdescent.bracketing.foreign_network import load_data, load_model, load_shape
from lipdescent.domains.written import parsed


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """What the docstring of this file says; ``arguments`` are the command line's if not given."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE.py:FUNCTION")
    parser.add_argument("--weights", metavar="W.safetensors")
    parser.add_argument("--input-shape", required=True, metavar="1,28,28")
    parser.add_argument("--norm", default="l2", choices=NORMS)
    parser.add_argument("--data", metavar="X.npz")
    parser.add_argument("--methods", metavar="a,b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--domain", default="everywhere", metavar="box:0,1")
    args = parser.parse_args(arguments)
    try:
        shape = load_shape(args.input_shape)
        found = bracket(
            load_model(args.model, args.weights),
            shape,
            norm=args.norm,
            data=None if args.data is None else load_data(args.data, shape),
            methods=None if args.methods is None else _names(args.methods),
            seed=args.seed,
            budget=args.budget,
            domain=parsed(args.domain),
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(found)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
