"""What the explorer's page holds: every series of a study's groups, packed into its size.

With all seeds where they fit. Else every checkpoint has means with intervals over its seeds, and
where even these are too many, epochs between the first and the last are left out; the page says so.
"""

import base64
import gzip
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lipdescent.analysis import ladder, statistics
from lipdescent.analysis.groups import Group, Rung, Series
from lipdescent.analysis.labels import rung_name
from lipdescent.analysis.statistics import MIN_SEEDS, Array
from lipdescent.jobs.words import counted

# Of the packed values; the page with its library stays below 6 MB.
LARGEST = 3_800_000
NORMS = {"l1": "\u21131", "l2": "\u21132", "linf": "\u2113\u221e"}  # a script l, infinity
NORMS |= {f"{norm}_softmax": f"softmax, {name}" for norm, name in NORMS.items()}
KINDS = (
    "losses and errors",
    "brackets",
    "lower bounds, proved",
    "upper bounds, proved",
    "estimates",
    "upper bounds, declared",
    "further quantities",
)
SHARE = (0.0, 1.0)
JACOBIAN_NORMS = ("jacobian_norm_mean", "jacobian_norm_rms", "jacobian_norm_q")
OF_DIRECTION = {"lower": KINDS[2], "upper": KINDS[3], "estimate": KINDS[4], "declared": KINDS[5]}


class Entry(NamedTuple):
    """A series as it is offered.

    Attributes
    ----------
    key : its name in the page's address.
    side : -1 of a lower bound, 1 of an upper one (so are roundings), 0 of all else.
    plain : whether its mean is a plain one, a geometric one else.
    unit : of its values, for the axis; empty of a number without one, and where none is known.
    ends : least and most that a value can be, None where there is no such end; intervals end there.
    """

    key: str
    name: str
    kind: str
    side: int
    plain: bool
    unit: str = ""
    ends: tuple[float | None, float | None] = (None, None)


def series(group: Group) -> dict[Entry, Array]:
    """Everything that can be looked at, (W, N, E, S) each: metrics, errors, brackets, bounds."""
    found: dict[Entry, Array] = {}
    for key, values in group.series.items():
        found[_entry(key, values)] = values
        if key.quantity.endswith("_accuracy") and not key.norm:
            error = key.quantity.removesuffix("_accuracy") + "_error"
            found[Entry(error, error.replace("_", " "), KINDS[0], 0, True, "", SHARE)] = 1 - values
    for norm in ladder.norms(group):
        lower, upper = ladder.bracket(group, norm)
        if not np.isfinite(lower).any():
            continue
        of = NORMS.get(norm, norm)
        for side, values, sign in (("lower", lower, -1), ("upper", upper, 1)):
            name = f"best {side} bound, {of}"
            found[Entry(f"best_{side}.{norm}", name, KINDS[1], sign, False, _unit(norm))] = values
        ratio = np.divide(upper, lower, out=np.full_like(upper, np.nan), where=lower > 0)
        ratio = np.nextafter(ratio, np.inf)  # at least that of the values themselves
        name = f"upper / lower, {of}"
        found[Entry(f"ratio.{norm}", name, KINDS[1], 1, False, "", (1.0, None))] = ratio
    return dict(sorted(found.items(), key=lambda item: (KINDS.index(item[0].kind), item[0].name)))


def _entry(key: Series, values: Array) -> Entry:
    where = [NORMS.get(key.norm, key.norm), key.split and f"on {key.split} data"]
    name = key.quantity.replace("_", " ")
    if key.direction in OF_DIRECTION:
        kind, name = OF_DIRECTION[key.direction], rung_name(Rung(key.quantity, key.direction))
    else:
        loss = key.quantity.startswith(("train_", "test_"))
        kind, where = (KINDS[0], []) if loss else (KINDS[-1], where)
    split = "" if kind == KINDS[0] else key.split  # a loss's name says it
    plain = "accuracy" in key.quantity or not statistics.has_logarithm(values)
    address = ".".join(filter(None, [key.quantity, key.norm, split]))
    side = {"lower": -1, "upper": 1, "declared": 1}.get(key.direction, 0)
    share = SHARE if "accuracy" in key.quantity else (None, None)
    constant = key.direction in OF_DIRECTION or key.quantity.startswith(JACOBIAN_NORMS)
    unit = _unit(key.norm) if constant else ""
    return Entry(address, ", ".join(filter(None, [name, *where])), kind, side, plain, unit, share)


def _unit(norm: str) -> str:
    """Of the constants in a norm."""
    return f"{'probabilities' if norm.endswith('_softmax') else 'logits'} per input"


def contents(
    groups: Sequence[Group], *, confidence: float, largest: int = LARGEST
) -> dict[str, Any]:
    """The page's data as JSON: entries, groups with their axes, and the packed values.

    Parameters
    ----------
    groups : of one study.
    confidence : of the intervals over seeds.
    largest : bytes of the packed values; more are summarised.
    """
    seeds = max(len(group.seed) for group in groups)
    size = sum(group.diverged.size * (len(group.series) + 8) for group in groups) * 8
    packed, said = "", ""
    if size < 8 * largest:  # what is larger does not fit, however it is packed
        entries, described, packed = _packed(groups, confidence, whole=True)
    whole = 0 < len(packed) <= largest
    if not whole:
        told = f"Means over {counted(seeds, 'seed')}: single seeds do not fit into this page."
        entries, described, packed, said = _summarised(groups, confidence, largest, told)
    return {
        "study": groups[0].study,
        "confidence": confidence,
        "kinds": KINDS,
        "whole": whole,
        "said": said,
        "half": _half_widths(seeds, confidence),
        "entries": [entry._asdict() for entry in entries],
        "groups": described,
        "values": packed,
    }


def _half_widths(seeds: int, confidence: float) -> list[float]:
    """Half an interval of a mean over n seeds in standard deviations; 0 of fewer than four."""
    count = np.arange(seeds + 1)
    t = stdtrit(np.maximum(count - 1, 1), 1 - (1 - confidence) / 2)
    return np.where(count < MIN_SEEDS, 0.0, t / np.sqrt(np.maximum(count, 1))).tolist()


def _summarised(
    groups: Sequence[Group], confidence: float, largest: int, said: str
) -> tuple[list[Entry], list[dict[str, Any]], str, str]:
    """With as many epochs as fit, evenly chosen, the first and the last among them."""
    most = max(len(group.epoch) for group in groups)
    count = most
    while True:
        entries, described, packed = _packed(groups, confidence, whole=False, epochs=count)
        if len(packed) <= largest or count <= 2:
            if count < most:
                said += f" {count} of {most} epochs; the table has all."
            return entries, described, packed, said
        count = max(2, min(count - 1, int(count * largest / len(packed))))


def _packed(
    groups: Sequence[Group], confidence: float, *, whole: bool, epochs: int = 0
) -> tuple[list[Entry], list[dict[str, Any]], str]:
    """Entries, groups with the places of their values, and these values."""
    store, described = _Store(), []
    entries: dict[str, Entry] = {}
    for group in groups:
        kept = np.arange(len(group.epoch))
        if epochs:
            kept = np.unique(np.linspace(0, len(kept) - 1, min(epochs, len(kept))).round())
        kept = kept.astype(np.int64)
        places: dict[str, int] = {}
        for entry, values in series(group).items():
            plain = entry.plain or (entry.key in entries and entries[entry.key].plain)
            entries[entry.key] = entry._replace(plain=plain)
            values = values[:, :, kept]
            places[entry.key] = store.put(values if whole else _means(values, entry, confidence))
        described.append(
            {
                "at": {"dataset": group.dataset, "architecture": group.architecture, **group.point},
                "width": group.width.tolist(),
                "num_parameters": group.num_parameters.tolist(),
                "label_noise": group.label_noise.tolist(),
                "epoch": group.epoch[kept].tolist(),
                "seed": group.seed.tolist() if whole else [],
                "values": places,
            }
        )
    ordered = sorted(entries.values(), key=lambda one: (KINDS.index(one.kind), one.name))
    return ordered, described, store.packed()


def _means(values: Array, entry: Entry, confidence: float) -> Array:
    """Mean, ends of its interval and number of seeds, outwards of bounds: (W, N, E, 4)."""
    mean = statistics.mean_estimate(values, confidence=confidence, geometric=not entry.plain)
    count = np.isfinite(values).sum(-1).astype(np.float64)
    slack = 1e-12 * entry.side
    least, most = entry.ends
    mean = statistics.within(
        mean, -np.inf if least is None else least, np.inf if most is None else most
    )
    low, high = (end * (1 + slack) for end in (mean.low, mean.high))
    return np.stack([mean.value * (1 + slack), low, high, count], -1)


class _Store:
    """Arrays of doubles one after the other; what is the same is kept once."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.float64]] = []
        self.known: dict[bytes, int] = {}
        self.end = 0

    def put(self, values: Array) -> int:
        """Place of the array's first value."""
        flat = np.ascontiguousarray(values, dtype="<f8").ravel()
        name = flat.tobytes()
        if name not in self.known:
            self.known[name] = self.end
            self.parts.append(flat)
            self.end += flat.size
        return self.known[name]

    def packed(self) -> str:
        """All of it, compressed, as text."""
        whole = np.concatenate(self.parts) if self.parts else np.zeros(0)
        return pack(whole.tobytes())


def pack(content: bytes) -> str:
    """Compressed, as letters; the same of the same content."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
