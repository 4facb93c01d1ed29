"""Certified bracket of a network's Lipschitz constant, for a network that was not trained here.

    python scripts/bracket.py --model FILE.py:FUNCTION --weights W.safetensors \\
        --input-shape 1,28,28 --norm l2 [--data X.npz] [--methods a,b] [--seed 0] [--budget 20]

FUNCTION takes no arguments and returns an nn.Module; instead of a file a module's name will do,
such as torchvision.models:resnet18. Without --weights those that FUNCTION returns are measured.
X.npz holds floating-point inputs (n, *input_shape), one array per split; without it lower bounds
start from standard normal points. --budget is about how many seconds each of them may take.
Prints every bound, the best bracket and its ratio; what is under way goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lipdescent.bracket import NORMS, bracket
from lipdescent.bracket_text import text


def load_model(where: str, weights: str | None) -> nn.Module:
    """Build the network, load its weights, in eval mode."""
    source, _, function = where.rpartition(":")
    if not source or not function:
        raise ValueError(f"--model {where}: expected FILE.py:FUNCTION or MODULE:FUNCTION")
    if source.endswith(".py"):
        path = Path(source).resolve()
        if not path.is_file():
            raise ValueError(f"--model: there is no file {source}")
        sys.path.insert(0, str(path.parent))  # the file may import its neighbours
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    if not hasattr(module, function):
        raise ValueError(f"--model: {source} has no function {function}")
    model = getattr(module, function)()
    if weights is not None:
        try:
            model.load_state_dict(load_file(weights))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(f"--weights {weights}: {error}") from error
    return model.eval()


def load_data(path: str, input_shape: Sequence[int]) -> dict[str, torch.Tensor]:
    """Every floating-point array of the npz whose points have ``input_shape``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"--data {path}: not a readable npz file ({error})") from error
    fitting = {
        name.removesuffix("_inputs"): torch.from_numpy(array)
        for name, array in arrays.items()
        if array.dtype.kind == "f" and array.shape[1:] == tuple(input_shape)
    }
    if not fitting:
        found = ", ".join(f"{n} {a.dtype} {a.shape}" for n, a in arrays.items())
        raise ValueError(
            f"--data {path}: no floating-point array (n, {', '.join(map(str, input_shape))}) "
            f"in it, only {found}"
        )
    return fitting


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE.py:FUNCTION")
    parser.add_argument("--weights", metavar="W.safetensors")
    parser.add_argument("--input-shape", required=True, metavar="1,28,28")
    parser.add_argument("--norm", default="l2", choices=NORMS)
    parser.add_argument("--data", metavar="X.npz")
    parser.add_argument("--methods", metavar="a,b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS")
    args = parser.parse_args()
    try:
        shape = tuple(int(n) for n in args.input_shape.split(","))
        model = load_model(args.model, args.weights)
        data = None if args.data is None else load_data(args.data, shape)
        methods = None if args.methods is None else args.methods.split(",")
        frame = bracket(
            model,
            shape,
            norm=args.norm,
            data=data,
            methods=methods,
            seed=args.seed,
            budget=args.budget,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(text(frame, args.norm))


if __name__ == "__main__":
    main()
