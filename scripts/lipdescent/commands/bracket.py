"""Certified bracket of a network's Lipschitz constant, for a network that was not trained here.

    lipdescent bracket --model FILE.py:FUNCTION --weights W.safetensors \\
        --input-shape 1,28,28 --norm l2 [--data X.npz] [--methods a,b] [--seed 0] [--budget 60] \\
        [--domain everywhere | box:0,1 | ball:l2:0.1] [--output NAME]
    lipdescent bracket --onnx NET.onnx [--input-shape 1,28,28] [--output NAME] \\
        [--operator NAME=FILE.py:CLASS] ...

From a clone, without installation: python scripts/bracket.py in place of lipdescent bracket.

FUNCTION takes no arguments and returns an nn.Module; instead of a file a module's name will do,
such as torchvision.models:resnet18. Without --weights those that FUNCTION returns are measured.
W is a safetensors file or a state_dict of torch.save (.pt, .pth, .ckpt), which may lie under
state_dict, model_state_dict or model; the prefixes module., _orig_mod. and model. are taken off,
--prefix actor. takes the names that begin so. Files of more than plain tensors are refused.
An ONNX file needs pip install 'lipdescent[onnx]'; --input-shape only where the file leaves it
open, --operator for operators that are not ONNX's own: CLASS is
called with the operator's attributes and gives a layer, PyTorch's or declared by lipdescent.layer.
--output chooses one of several outputs, of a model also by its place (0, 1, ...).
X.npz holds floating-point inputs (n, *input_shape), one array per split (X.npy: one array);
without it lower bounds start from standard normal points. --budget is about how many seconds all
of them may take together, once the network has been read; what did not fit is said. --domain:
bounds on the box [0, 1]^d, or on balls around the points of --data (the largest of them). Prints
every bound, rounded outwards, the best bracket and its ratio; what is under way goes to stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from torch import nn

from lipdescent.bracketing.bracket import NORMS, bracket
from lipdescent.bracketing.foreign_network import load_data, load_function, load_model, load_shape
from lipdescent.bracketing.onnx_network import load_onnx


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """What the docstring of this file says; ``arguments`` are the command line's if not given."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="FILE.py:FUNCTION")
    source.add_argument("--onnx", metavar="NET.onnx")
    parser.add_argument("--weights", metavar="W.safetensors")
    parser.add_argument("--prefix", metavar="actor.")
    parser.add_argument("--input-shape", metavar="1,28,28")
    parser.add_argument("--output", metavar="NAME")
    parser.add_argument("--operator", action="append", default=[], metavar="NAME=FILE.py:CLASS")
    parser.add_argument("--norm", default="l2", choices=NORMS)
    parser.add_argument("--data", metavar="X.npz")
    parser.add_argument("--methods", metavar="a,b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--domain", default="everywhere", metavar="box:0,1")
    args = parser.parse_args(arguments)
    try:
        model, shape = _network(args)
        found = bracket(
            model,
            shape,
            norm=args.norm,
            data=None if args.data is None else load_data(args.data, shape),
            methods=None if args.methods is None else _names(args.methods),
            seed=args.seed,
            budget=args.budget,
            domain=args.domain,
            output=None if args.onnx is not None else _place_or_name(args.output),
            report=_said,
        )
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(found)


def _network(args: argparse.Namespace) -> tuple[nn.Module, tuple[int, ...]]:
    """The network that the command line names, and the shape of its inputs."""
    shape = None if args.input_shape is None else load_shape(args.input_shape)
    if args.onnx is None:
        if shape is None:
            raise ValueError("--input-shape is needed with --model, such as 1,28,28")
        if args.operator:
            raise ValueError("--operator is for --onnx")
        if args.prefix is not None and args.weights is None:
            raise ValueError("--prefix is of the names in the file of --weights")
        return load_model(args.model, args.weights, prefix=args.prefix, report=_said), shape
    if args.weights is not None or args.prefix is not None:
        raise ValueError("--weights and --prefix are for --model: an ONNX file has its own")
    pairs = [pair.partition("=") for pair in args.operator]
    operators = {name: load_function(where) for name, _, where in pairs}
    read = load_onnx(args.onnx, shape, output=args.output, operators=operators)
    return read.network, read.input_shape


def _place_or_name(output: str | None) -> int | str | None:
    return int(output) if output is not None and output.isdecimal() else output


def _said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
