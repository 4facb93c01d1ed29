"""What every column and quantity of the tidy table is: unit, meaning, values.

Said once: docs/table.md (make table-words), the metadata of the Parquet file's fields and the JSON
beside the CSV come from here; bounds say themselves what they are, by their docstring's first line.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from lipdescent.plugins import lookup

MARKS = "<!-- table words -->", "<!-- end of table words -->"


class Word(NamedTuple):
    """Of a column or a quantity."""

    unit: str
    meaning: str
    values: str = ""


COLUMNS = {
    "study": Word("", "name of the study, key study of its configuration", "text"),
    "dataset": Word("", "what was trained on, a name in grid.dataset", "text"),
    "architecture": Word("", "kind of network, a name in grid.architecture", "text"),
    "width": Word(
        "units, channels or embedding dimension", "size of the network's layers", "integers from 1"
    ),
    "num_parameters": Word("parameters", "trained numbers of the network", "integers from 1"),
    "label_noise": Word("", "fraction of the training labels that are noisy", "0 to 1"),
    "seed": Word("", "of the weights, the batch order and the noise", "integers"),
    "epoch": Word("epochs", "passes over the training data before the checkpoint", "from 0 on"),
    "split": Word("", "data that the value was taken on", "train, test, empty where none are used"),
    "quantity": Word("", "what was measured", "the names below"),
    "direction": Word(
        "",
        "lower and upper: certified bounds, rounding included; estimate: from below, not "
        "certified; declared: from above, resting on what a user declared of a layer",
        "lower, upper, estimate, declared, metric",
    ),
    "norm": Word(
        "",
        "of inputs and outputs alike; of l1_softmax and so on, of the softmax of the logits",
        "l1, l2, linf, each also with _softmax, empty where none is used",
    ),
    "value": Word("that of the quantity", "the value, NaN where there is none", "numbers"),
    "status": Word(
        "",
        "diverged: a weight or a metric of the network is not finite; not_finite: a bound of a "
        "finite network is not; not_applicable: there is no such quantity; error: the code failed; "
        "logs/measure says of both why",
        "ok, diverged, not_finite, not_applicable, error",
    ),
}
AXIS = Word("", "a further axis of the study (vary), empty where it is not the network's", "")
LOSS = "of the training's loss (nats of cross-entropy)"
BOUND = "logits per input"
# Names, and how names begin: the longest that fits is taken.
QUANTITIES = {
    "train_loss": Word(LOSS, "mean loss on the training points, labels as trained on"),
    "train_loss_clean": Word(LOSS, "mean loss on the training points, labels without noise"),
    "test_loss": Word(LOSS, "mean loss on the test points, labels without noise"),
    "test_loss_calibrated": Word(
        "nats",
        "mean cross-entropy on the test points of the logits times the number that is best on the "
        "other half of the points: without the logits' scale",
    ),
    "inverse_temperature": Word("", "that number, mean of both halves' best ones", "from 0 on"),
    "num_train": Word("points", "training points", "integers from 1"),
    "num_classes": Word("", "classes of the data", "integers from 1"),
    "train_accuracy": Word("share", "training points classified as trained on", "0 to 1"),
    "train_accuracy_clean": Word("share", "training points classified rightly", "0 to 1"),
    "test_accuracy": Word("share", "test points classified rightly", "0 to 1"),
    "distance_from_init": Word("weights", "l2 distance of all weights from the start"),
    "path_length": Word("weights", "sum of the l2 distances from checkpoint to checkpoint"),
    "jacobian_norm_mean": Word(BOUND, "mean operator norm of the Jacobian over the points"),
    "jacobian_norm_mean_right": Word(BOUND, "the same over points classified rightly"),
    "jacobian_norm_mean_wrong": Word(BOUND, "the same over points classified wrongly"),
    "jacobian_norm_rms": Word(BOUND, "root of the mean squared norm of the Jacobian"),
    "jacobian_norm_q": Word(BOUND, "a quantile (percent) of the norms of the Jacobian"),
    "jacobian_norm_share_right@": Word(
        "share", "points classified rightly whose Jacobian's norm lies in LOW..HIGH", "0 to 1"
    ),
    "jacobian_norm_share_wrong@": Word(
        "share", "points classified wrongly whose Jacobian's norm lies in LOW..HIGH", "0 to 1"
    ),
    "jacobian_norm_loss_": Word(
        "", "correlation of norm and loss over the points: spearman of ranks, pearson", "-1 to 1"
    ),
    "parameter_gradient_norm": Word("loss per weight", "l2 norm of the loss's gradient"),
    "hessian_largest_eigenvalue": Word(
        "loss per squared weight", "largest eigenvalue of the loss's Hessian, from below"
    ),
    "layer_frobenius_norm@": Word(
        "weights",
        "Frobenius norm of the weight named, as a matrix (outputs, all else)",
        "from 0 on",
    ),
    "layer_spectral_norm@": Word(
        "weights", "largest singular value of the same; of a convolution not its norm", "from 0 on"
    ),
    "linearised_": Word(
        f"{BOUND}; relative_error: none",
        "of the network linearised at its start: largest and mean Jacobian norm, relative error of "
        "its outputs",
    ),
    "ensemble_square_error": Word("squared logits", "squared error of the mean over seeds"),
    "seed_square_error": Word("squared logits", "squared error of the network of this seed"),
    "seed_variance": Word("squared logits", "its mean squared distance from the mean over seeds"),
    "seed_variance_at_": Word("squared logits", "the same at the origin or the mean test point"),
    "mean_square_distance_from_": Word(
        "squared inputs", "of the test points, from the origin or their mean, rounded up"
    ),
    "ensemble_upper_lipsdp": Word(BOUND, "certified upper bound of the mean over seeds"),
    "ensemble_lower_jacobian": Word(BOUND, "largest Jacobian norm of the mean over seeds"),
    "ensemble_loss_of_mean_": Word("nats", "test loss of the seeds' mean softmax or logits"),
    "ensemble_error_of_mean_": Word("share", "test error of the same", "0 to 1"),
    "certified_accuracy@": Word(
        "share", "points classified rightly whose certified radius exceeds the one named", "0 to 1"
    ),
    "pgd_accuracy@": Word(
        "share", "points that PGD within the radius named leaves classified rightly", "0 to 1"
    ),
    "mean_certified_radius": Word("inputs", "mean certified radius of the points"),
}


def describe(name: str) -> Word:
    """A quantity's word; of a bound its docstring's first line.

    Raises
    ------
    KeyError
        Naming the quantity, if nothing is said of it.
    """
    base = name.split("@")[0]  # of a further set of points the set's name follows
    fits = [known for known in QUANTITIES if base == known or _begins(name, known)]
    if fits:
        return QUANTITIES[max(fits, key=len)]
    named = [bound for bound in lookup.known("bounds") if base.startswith(bound)]
    if not named:
        raise KeyError(f"nothing is said of the quantity {name!r} in storage/table_words.py")
    return Word(BOUND, first_line(max(named, key=len)), "from 0 on")


def _begins(name: str, known: str) -> bool:
    return known.endswith(("@", "_", "_q")) and name.startswith(known)


@cache
def first_line(bound: str) -> str:
    """Of a bound's docstring, without its full stop."""
    path = lookup.LIBRARY / lookup.place("bounds") / f"{bound}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def columns(axes: Iterable[str]) -> dict[str, Word]:
    """Of a table with further axes."""
    return COLUMNS | dict.fromkeys(axes, AXIS)


def document(axes: Iterable[str], quantities: Iterable[str]) -> dict[str, dict]:
    """What lies beside the CSV, and in the Parquet file's fields."""
    return {
        "columns": {name: word._asdict() for name, word in columns(axes).items()},
        "quantities": {name: _known(name)._asdict() for name in sorted(quantities)},
    }


def _known(name: str) -> Word:
    try:
        return describe(name)
    except KeyError:  # of a plug-in of the user's: its code says it
        return Word("", "")


def markdown() -> str:
    """The tables of docs/table.md."""
    bounds = {name: Word(BOUND, first_line(name), "from 0 on") for name in lookup.known("bounds")}
    shown = {k + "..." if k.endswith(("@", "_", "_q")) else k: w for k, w in QUANTITIES.items()}
    parts = [_table("column", COLUMNS), _table("quantity", shown), _table("bound", bounds)]
    return "\n\n".join(parts) + "\n"


def _table(what: str, words: Mapping[str, Word]) -> str:
    lines = [f"| {what} | unit | meaning | values |", "|---|---|---|---|"]
    for name, word in words.items():
        unit, meaning, values = (text.replace("|", "\\|") for text in word)
        lines.append(f"| `{name}` | {unit} | {meaning} | {values} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page with the tables between its marks."""
    head, rest = text.split(MARKS[0])
    return f"{head}{MARKS[0]}\n{markdown()}{MARKS[1]}{rest.split(MARKS[1])[1]}"
