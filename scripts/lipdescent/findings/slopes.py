"""How fast the bounds, and provably the constant, grow over epochs, width and further axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from lipdescent.analysis import ladder, point_slopes, slopes
from lipdescent.analysis.groups import Group
from lipdescent.analysis.labels import noise_name, place_name
from lipdescent.analysis.slopes import Panel
from lipdescent.findings import words
from lipdescent.findings.page import Block, Heading, Table, Text
from lipdescent.findings.words import NORMS, Facts, number, numbers

HEADER = ["over", "at", "label noise", "from", "to", "points", "of what", "exponent", "R2",
          "average exponent"]  # fmt: skip
READ = (
    "Exponents b of y = c x^b: by least squares of the logarithms, and on average between the two "
    "ends; in brackets as above. All of one range start together, where statistics.fit_from says, "
    "or else at the first value from which every curve stays within a factor 1.1 of its line. Of "
    "the constant: between what the brackets prove, for the mean over the seeds measured here."
)
HOW = {"least_squares": "by least squares", "average": "on average"}


def exponents(group: Group, norm: str, options: Mapping[str, Any]) -> list[Facts]:
    """Every fit of a group in one norm, ready for JSON."""
    return [
        _facts(panel)
        for axis in slopes.OVER
        for panel in slopes.panels(group, axis, norm=norm, options=options)
    ]


def over_points(groups: Sequence[Group], options: Mapping[str, Any]) -> dict[str, list[Facts]]:
    """Norm -> every fit over further axes, ready for JSON, with its data set."""
    norms = dict.fromkeys(norm for group in groups for norm in ladder.norms(group))
    return {
        norm: [
            {"dataset": dataset} | _facts(panel)
            for dataset in dict.fromkeys(group.dataset for group in groups)
            for panel in point_slopes.panels(
                [group for group in groups if group.dataset == dataset], norm=norm, options=options
            )
        ]
        for norm in norms
    }


def _facts(panel: Panel) -> Facts:
    fitted = [] if panel.start is None else panel.x[panel.start :].tolist()
    return {
        "over": panel.axis,
        "at": panel.at,
        "from": fitted[0] if fitted else None,
        "to": fitted[-1] if fitted else None,
        "points": len(fitted),
        "seeds": len(panel.seeds),
        "reason": panel.reason,
        "fits": {
            name: {
                "exponent": numbers(fit.exponent),
                "average": numbers(fit.average),
                "r_squared": number(fit.r_squared),
            }
            for name, fit in panel.fits.items()
        },
        "constant": panel.constant and {n: numbers(r) for n, r in panel.constant.items()},
        "excluded": panel.excluded,
    }


def headline(found: list[Facts], norm: str) -> str:
    """What is proved, or fitted, at the largest width and the last epoch with the least noise."""
    parts = []
    for axis, what in (("epoch", "with training"), ("width", "with width")):
        of_axis = [facts for facts in found if facts["over"] == axis and facts["fits"]]
        if of_axis:
            widest = max(facts["at"].get("width", 0) for facts in of_axis)
            chosen = [facts for facts in of_axis if facts["at"].get("width", 0) == widest]
            parts.append(_told(chosen[0], what))
    if not parts:
        return ""
    return f"As a power law, how does the {NORMS[norm]} constant change? {' '.join(parts)}"


def _told(facts: Facts, what: str) -> str:
    """One range in a sentence or two."""
    other = "width" if facts["over"] == "epoch" else "epoch"
    text = (
        f"{what.capitalize()} ({facts['over']} {facts['from']:g} to {facts['to']:g}, {other} "
        f"{facts['at'][other]}, {noise_name(facts['at']['label_noise'])} label noise): "
    )
    if facts["constant"]:
        least, most = _proved(facts["constant"]["average"])
        text += (
            f"by the brackets its average exponent, a mean over "
            f"the seeds, lies between {least} and {most}; "
        )
    fits = ", ".join(f"{n} {words.interval(f['exponent'])}" for n, f in facts["fits"].items())
    text += f"exponents fitted: {fits}."
    if facts["excluded"]:
        names = "; ".join(_exclusion(facts, name) for name in facts["excluded"])
        text += f" Excluded by the brackets, an exponent like that of: {names}."
    return text


def _exclusion(facts: Facts, name: str) -> str:
    """Which exponent of a curve the constant does not have, beside that of the constant."""
    for proved, own in slopes.COMPARED:
        value, ours = facts["fits"][name][own]["value"], facts["constant"][proved]
        if words.outside(value, ours["low"], ours["high"]):
            least, most = words.at_least(ours["low"], ".3f"), words.at_most(ours["high"], ".3f")
            return f"{name} ({HOW[proved]} {value:.3f}, the constant's {least} to {most})"
    raise ValueError(f"{name} is not excluded")


def point_blocks(found: Mapping[str, list[Facts]]) -> list[Block]:
    """All fits over further axes, a table for each norm; empty without any."""
    return [
        block
        for norm, listed in found.items()
        for block in blocks(listed, norm, level=2, what="Power laws over further axes")
    ]


def blocks(
    found: list[Facts], norm: str, *, level: int = 3, what: str = "Power laws"
) -> list[Block]:
    """All fits as a table; empty without any."""
    rows = [row for facts in found for row in _rows(facts)]
    if not rows:
        return []
    title = Heading(level, f"{what} in {NORMS[norm]}")
    return [title, Table(HEADER, rows, f"{what} in {NORMS[norm]}."), Text(READ)]


def _rows(facts: Facts) -> list[list[str]]:
    rest = [place_name(n, value) for n, value in facts["at"].items() if n != "label_noise"]
    where = ", ".join([*([facts["dataset"]] if "dataset" in facts else []), *rest])
    start = [facts["over"], where, noise_name(facts["at"]["label_noise"])]
    if not facts["fits"]:
        return [[*start, "-", "-", "-", f"no fit: {facts['reason']}", "-", "-", "-"]]
    start += [f"{facts['from']:g}", f"{facts['to']:g}", str(facts["points"])]
    rows = [
        [
            *start,
            name + " (excluded for the constant)" * (name in facts["excluded"]),
            words.interval(fit["exponent"]),
            "-" if fit["r_squared"] is None else f"{fit['r_squared']:.3f}",
            words.interval(fit["average"]),
        ]
        for name, fit in facts["fits"].items()
    ]
    if facts["constant"]:
        line, ends = (_proved(facts["constant"][w]) for w in ("least_squares", "average"))
        rows.append([*start, "the constant, proved", " to ".join(line), "-", " to ".join(ends)])
    return rows


def _proved(found: Facts) -> tuple[str, str]:
    return words.at_least(found["low"]), words.at_most(found["high"])
