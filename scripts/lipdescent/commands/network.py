"""One network of a study: what was measured of it, why its upper bound is what it is, its weights.

    lipdescent network STUDY_FOLDER width=64 label_noise=0.2 seed=0 [epoch=100] [--norm l2] \\
        [--save net.safetensors]

From a clone, without installation: python scripts/network.py in place of lipdescent network.

An axis (dataset, architecture, width, label_noise, seed, and what the study varies) may be left
out where the study has one value; without epoch it is the last. Prints the metrics, every bound in
the norm, rounded outwards, with the seconds of its job (of all checkpoints of the stack), the best
bracket and what gives it, each layer's factor in the layer product, and what the best upper bound
gains over that. --save writes the state_dict (.safetensors, .pt) or the network (.onnx, which
needs pip install 'lipdescent[onnx]'). In Python: lipdescent.trained(STUDY_FOLDER, width=64, ...).
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipdescent.arithmetic import decimals
from lipdescent.bracketing import ends, text
from lipdescent.measurement import NotApplicable
from lipdescent.measuring.as_read import as_read
from lipdescent.measuring.trained import Trained, find
from lipdescent.plugins import lookup
from lipdescent.storage import atomic
from lipdescent.storage.variants import Value
from lipdescent.structure.composition import bound
from lipdescent.structure.factors import factors
from lipdescent.structure.trace import trace
from lipdescent.study.provenance import job_seconds

SAVED = (".safetensors", ".pt", ".onnx")
# How a measurement's log begins the line that says why a row has no value.
SAID = {"not_applicable": "not applicable: ", "error": "error: ", "not_finite": "not finite for "}


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """What the docstring of this file says; ``arguments`` are the command line's if not given."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", metavar="STUDY_FOLDER")
    parser.add_argument("cell", nargs="*", metavar="AXIS=VALUE")
    parser.add_argument("--norm", default="l2")
    parser.add_argument("--save", metavar="NET.safetensors")
    args = parser.parse_args(arguments)
    try:
        if args.save is not None and Path(args.save).suffix not in SAVED:
            raise ValueError(f"--save {args.save}: allowed are files named {', '.join(SAVED)}")
        if args.save is not None and Path(args.save).is_dir():
            raise ValueError(f"--save {args.save}: a folder; allowed is a file")
        found = find(args.study, _cell(args.cell))
        print("\n".join(report(found, args.norm)))
        if args.save is not None:
            save(args.save, found.network, found.dataset.input_shape)
            print(f"\nwritten: {args.save}, {_built(found)}")
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _cell(given: Sequence[str]) -> dict[str, Value]:
    """Axis -> value; one that is given twice is an error."""
    cell = dict(map(_axis, given))
    if len(cell) < len(given):
        raise ValueError(f"{' '.join(given)}: allowed is each axis once")
    return cell


def _axis(given: str) -> tuple[str, Value]:
    """``width=64`` -> ("width", 64)."""
    axis, equals, value = given.partition("=")
    if not equals:
        raise ValueError(f"{given}: expected AXIS=VALUE, such as width=64")
    for kind in (int, float):
        try:
            return axis, kind(value)
        except ValueError:
            continue
    return axis, value


def report(found: Trained, norm: str) -> Iterator[str]:
    """Lines of all that is said of a checkpoint; ValueError for a norm that the study has not."""
    import pandas as pd  # not at the top: takes half a second, an error need not wait

    rows = [_row(found, name, row) for name, of_one in found.rows.items() for row in of_one]
    norms = dict.fromkeys(row["norm"] for row in rows if row["norm"])
    if norm not in norms:
        raise ValueError(f"norm {norm!r}: {found.study} has {', '.join(norms) or 'none'}")
    # Where all that a bound has to say is why there is none, its norms are not told.
    own = [row for row in rows if row["bound"] and row["norm"] in (norm, "")]
    bounds = [row for row in own if row["status"] == "ok" or row["direction"] != "metric"]
    yield f"{found.study}: {found.named}"
    yield f"{rows[0]['num_parameters']} parameters; stack {found.run}, {_built(found)}\n"
    for row in rows:
        if not row["bound"]:
            yield from _metric(row)
    frame = pd.DataFrame(bounds)
    yield f"\n{text.text(frame, norm)}"
    lower, upper = ends.holders(frame)
    yield f"lower by {lower[1] or 'none'}, upper by {upper[1] or 'none'}"
    count = len(found.saved.epoch) * found.saved.num_replicas
    yield f"seconds: of a job, for all {count} checkpoints of the stack"
    yield from _explained(found, norm, *upper)


def _metric(row: dict[str, Any]) -> Iterator[str]:
    """Of an accuracy the error, too."""
    name = " ".join(filter(None, (row["quantity"], row["norm"])))
    shown = f"{row['value']:.6g}" if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
    yield f"  {name:24} {shown}"
    if name.endswith("_accuracy") and row["status"] == "ok":
        yield f"  {name.replace('accuracy', 'error'):24} {1 - row['value']:.6g}"


def _row(found: Trained, name: str, row: dict[str, Any]) -> dict[str, Any]:
    """With the seconds of its job, and the reason that this has logged where there is no value."""
    seconds = job_seconds(found.study / "benchmarks/measure" / found.run).get(name, float("nan"))
    own = {"bound": lookup.measurement_kind(name) == "bound", "seconds": seconds}
    return row | own | {"reason": _reason(found, name, row["status"])}


def _reason(found: Trained, name: str, status: str) -> str:
    if status == "ok":
        return ""
    if status == "diverged":
        return "a weight or a metric of the network is not finite"
    log = found.study / "logs/measure" / found.run / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    told = [line.partition(SAID[status]) for line in lines if SAID[status] in line]
    return told[-1][2].removeprefix(f"{name}: ") if told else f"no more in {log}"


def _explained(found: Trained, norm: str, upper: float, by: str) -> Iterator[str]:
    """The factors of the layer product, and what the best upper bound gains over it."""
    yield f"\nfactors of the layer product ({norm}):"
    try:
        stack = as_read(found.stack, {"train": torch.from_numpy(found.dataset.train_inputs)})
        node = trace(stack)
        lines = [
            ("  " * depth + place, float(v)) for depth, place, v in factors(node, stack, norm=norm)
        ]
        product = float(bound(node, stack, norm=norm))
    except (NotApplicable, TypeError, ValueError) as error:
        yield f"  there is none: {error}"
        return
    lines += [("product", product)]
    lines += [(by, upper)] if by and upper < product else []
    width = max(len(place) for place, _ in lines)
    for place, value in lines:
        gain = f", {product / upper:.4g} times less" if place == by else ""
        yield f"  {place:{width}} {decimals.at_most(value)}{gain}"


def _built(found: Trained) -> str:
    """Where its module comes from."""
    about, data = found.saved.origin, found.dataset
    options = {"input_shape": data.input_shape, "num_classes": data.num_classes} | about.build
    told = ", ".join(f"{name}={value!r}" for name, value in options.items())
    plain = found.stack.state.keys() == found.saved.state.keys()
    more = "" if plain else ", constrained layers as ordinary ones"
    return f"of lipdescent.architectures.{about.module}.build({about.run['width']}, {told}){more}"


def save(path: str | Path, network: nn.Module, input_shape: Sequence[int]) -> None:
    """Write a network's state_dict, or to ``.onnx`` the network, for one input at a time.

    Raises
    ------
    ImportError, RuntimeError, ValueError
        If ONNX files cannot be written here, or not of this network.
    """
    with atomic.complete(path) as partial:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(network.state_dict(), partial)
        elif Path(path).suffix == ".pt":
            torch.save(network.state_dict(), partial)
        else:
            _save_onnx(partial, network, input_shape)


def _save_onnx(path: Path, network: nn.Module, input_shape: Sequence[int]) -> None:
    try:
        import onnx  # noqa: F401  or torch fails in its midst
        import onnxruntime
    except ImportError as error:
        raise ImportError("ONNX files need pip install 'lipdescent[onnx]'") from error
    example = torch.zeros(1, *input_shape, dtype=next(network.parameters()).dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["input"],
            output_names=["logits"],
            dynamo=False,
            # The weights as they are: batch normalisations stay apart.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        session.run(None, {"input": example.numpy()})
    except Exception as error:  # of another library: anything can be raised
        said = str(error).splitlines()[0]
        raise ValueError(f"onnxruntime does not run the network as an ONNX file: {said}") from error
