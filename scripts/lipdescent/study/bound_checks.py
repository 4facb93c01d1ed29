"""Can the bounds be taken in the norms, at the points and of the outputs that are wanted?

Everything here raises ConfigError, naming the key, its value and what is allowed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lipdescent.domains import written
from lipdescent.plugins import bound_entries, lookup, signatures
from lipdescent.study.schema import ConfigError, mistakes


def check(config: dict[str, Any]) -> None:
    """The entries of ``bounds``, and the certificates' upper bounds."""
    called: dict[tuple[str, str], str] = {}
    for name, entry in config["bounds"].items():
        bound = bound_entries.bound_of(name, entry)
        _check_name(name, bound)
        _check_norms(name, bound, entry)
        _check_direction(name, bound, entry)
        _check_files(name, entry)
        _check_domain(name, entry)
        label = bound, bound_entries.label(name, entry)
        if label in called:
            raise ConfigError(
                f"config: bounds.{name}: its rows would be called "
                f"{bound_entries.called(bound, name, entry)}, as those of bounds.{called[label]}: "
                "allowed are names, and sets of points, of their own"
            )
        called[label] = name
    _check_certificates(config)


def _check_files(name: str, entry: dict[str, Any]) -> None:
    """Files of points are there; their digests are the study's to fill in (study/recipes.py)."""
    for path in bound_entries.files(entry):
        if not Path(path).is_file():
            raise ConfigError(
                f"config: bounds.{name}.points_options has {path!r}: there is no such file in "
                f"{Path.cwd()}; make it, or name one that exists"
            )
    for key, value in entry.get("points_options", {}).items():
        if key.endswith("_digest"):
            raise ConfigError(
                f"config: bounds.{name}.points_options.{key} = {value!r}: the study takes it of "
                "the file itself; allowed is to leave it out"
            )


def _check_domain(name: str, entry: dict[str, Any]) -> None:
    """A domain that there is; certificates hold only where a bound is one of the whole space."""
    if "domain" in entry:
        with mistakes(f"bounds.{name}: "):
            written.checked(entry["domain"])


def _check_name(name: str, bound: str) -> None:
    """A name that is no bound's own, and nothing else that is measured."""
    taken = [*lookup.known("measurements"), *(n for n in lookup.known("bounds") if n != bound)]
    if name in taken:
        raise ConfigError(
            f"config: bounds.{name}.bound = {bound!r}: {name} is the name of something else that "
            f"is measured; allowed are {bound} and names of your own"
        )


def _check_norms(name: str, bound: str, entry: dict[str, Any]) -> None:
    known = signatures.constant("bounds", bound, "NORMS")
    wrong = [norm for norm in entry.get("norms", []) if known and norm not in known]
    if wrong:
        raise ConfigError(
            f"config: bounds.{name}.norms contains {wrong[0]!r}: this bound exists in "
            f"{', '.join(known)}"
        )


def _check_direction(name: str, bound: str, entry: dict[str, Any]) -> None:
    """Points are for bounds that look at points, softmax for upper and lower bounds."""
    direction = signatures.constant("bounds", bound, "DIRECTION")
    if "points_options" in entry and "points" not in entry:
        raise ConfigError(
            f"config: bounds.{name}.points_options = {entry['points_options']}: without points "
            f"nothing reads it; write points: {', '.join(lookup.known('points'))}"
        )
    if "points" in entry and direction == "upper":
        raise ConfigError(
            f"config: bounds.{name}.points = {entry['points']!r}: {bound} is an upper bound, of "
            "all points; allowed for lower bounds, estimates and local bounds"
        )
    if "softmax" in entry.get("outputs", []) and direction not in ("lower", "upper", None):
        raise ConfigError(
            f"config: bounds.{name}.outputs contains 'softmax': {bound} is a {direction}; allowed "
            "for lower and upper bounds"
        )


def _check_certificates(config: dict[str, Any]) -> None:
    """They rest on upper bounds of the logits."""
    directions = {
        name: signatures.constant("bounds", bound_entries.bound_of(name, entry), "DIRECTION")
        for name, entry in config["bounds"].items()
    }
    for name in (config["certificates"] or {"upper": []})["upper"]:
        if config["bounds"].get(name, {}).get("domain", written.EVERYWHERE) != written.EVERYWHERE:
            raise ConfigError(
                f"config: certificates.upper contains {name!r}, a bound on a domain: allowed are "
                "bounds on the whole space"
            )
        if directions[name] not in ("upper", None):
            uppers = [n for n, direction in directions.items() if direction == "upper"]
            raise ConfigError(
                f"config: certificates.upper contains {name!r}, whose direction is "
                f"{directions[name]}: allowed are upper bounds, in this study "
                f"{', '.join(uppers) or 'none'}"
            )
    _check_radii(config)


def _check_radii(config: dict[str, Any]) -> None:
    """Radii of a norm rest on an upper bound that is asked for in it."""
    certificates = config["certificates"] or {"upper": [], "radii": {}}
    uppers = certificates["upper"]
    norms = [n for name in uppers for n in config["bounds"].get(name, {}).get("norms", ["l2"])]
    for norm in certificates["radii"]:
        if norm not in norms:
            raise ConfigError(
                f"config: certificates.radii.{norm}: there is no upper bound in {norm}, as norms "
                f"of the bounds in certificates.upper are {', '.join(dict.fromkeys(norms))}; "
                f"allowed is {norm} among bounds.{uppers[0]}.norms, or no such radii"
            )


def check_rows(quantities: Iterable[str], path: str | Path, config: dict[str, Any]) -> None:
    """Rows are called as the entry of ``bounds`` that their file belongs to.

    Two entries may ask for the same under two names, so a file's stamp does not tell which it is.

    Raises
    ------
    ValueError
        Naming the file, a quantity and how it should end.
    """
    name = Path(path).stem
    own = bound_entries.label(name, config["bounds"].get(name, {}))
    for quantity in quantities if own else ():
        if not quantity.endswith(f"@{own}"):
            raise ValueError(
                f"{path}: holds {quantity}, but its place is that of bounds.{name}, whose "
                f"quantities end with @{own}: it is another entry's"
            )
