"""Columns of the tidy table, and where a study's further axes stand among them."""

KINDS = {
    "study": "text",
    "dataset": "text",
    "architecture": "text",
    "width": "integer",
    "num_parameters": "integer",
    "label_noise": "number",
    "seed": "integer",
    "epoch": "integer",
    "split": "text",
    "quantity": "text",
    "direction": "text",
    "norm": "text",
    "value": "number",
    # ok; diverged: the network has a weight, or a metric, that is not finite; not_finite: a bound
    # of a finite network is not, by an overflow for instance; not_applicable: there is no such
    # bound; error: the bound's code raised an exception or gave no bound (a negative number), its
    # log says which.
    "status": "text",
}
NAMES = tuple(KINDS)
# A column per axis, numbers or words, null for networks that the axis does not change.
AXES_AFTER = "width"


def axes(names: list[str]) -> list[str] | None:
    """The axes among the columns of a table; None where they are not those of such a table."""
    start = NAMES.index(AXES_AFTER) + 1
    count = len(names) - len(NAMES)
    if count < 0 or [*names[:start], *names[start + count :]] != list(NAMES):
        return None
    return names[start : start + count]
