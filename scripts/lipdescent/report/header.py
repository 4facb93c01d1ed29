"""The run's header: what was trained or read, settings, versions, device, and how long."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lipdescent.analysis.labels import noise_name
from lipdescent.findings import words
from lipdescent.jobs.console import spell
from lipdescent.jobs.words import counted
from lipdescent.study.checks import OPTIMIZER_OPTIONS

VERSIONS = ("torch", "numpy", "pyarrow", "scipy", "snakemake")


def header(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Name -> text, in the order of the page; ``provenance`` is that of provenance.json."""
    config = provenance["config"]
    rows = _experiments(config) if config.get("experiments") else _networks(config)
    return rows | {
        "revision": _revision(provenance),
        "versions": _versions(provenance),
        "device": _device(provenance),
        "duration": _duration(provenance),
        "jobs": _jobs(config["study"]),
    }


def _jobs(study: str) -> str:
    """Where Snakemake's report of them is; no link, as plain Snakemake does not write it."""
    return (
        "Snakemake's report of them is workflow.html beside this page, once make or "
        f"snakemake --report results/{study}/workflow.html (with the study's --configfile) "
        "has written it"
    )


def _experiments(config: Mapping[str, Any]) -> dict[str, str]:
    told = [f"{name} ({settings(o) or 'defaults'})" for name, o in config["experiments"].items()]
    return {"experiments": "; ".join(told)}


def _networks(config: Mapping[str, Any]) -> dict[str, str]:
    grid, training = config["grid"], config["training"]
    epochs = sorted(grid["epoch"])
    size = [
        f"{words.count(grid['width'], 'width')} ({words.span(sorted(grid['width']))})",
        f"{words.count(grid['label_noise'], 'level')} of label noise "
        f"({words.span(sorted(grid['label_noise']), noise_name)})",
        words.count(grid["seed"], "seed"),
    ]
    size += [
        f"{axis}: {', '.join(map(str, points))}" for axis, points in config.get("vary", {}).items()
    ]
    files = (config.get("checkpoints") or {}).get("files")
    rows = {
        "read"
        if files
        else "trained": f"{', '.join(grid['architecture'])} on {', '.join(grid['dataset'])}: "
        f"{', '.join(size)}; {words.count(epochs, 'checkpoint')} each, the last at epoch "
        f"{epochs[-1]}",
        "training": words.elsewhere(files) if files else settings(_used(training)),
        **({"measured by": settings(training)} if files else {}),
        "data": _named(config["datasets"]),
        "architecture": _named(config["architectures"]),
        "bounds": _named(config["bounds"]) or "none",
    }
    return rows | ({"further": _named(config["quantities"])} if config.get("quantities") else {})


def _used(training: Mapping[str, Any]) -> dict[str, Any]:
    """Without what another optimiser would take."""
    own = training.get("optimizer")
    return {k: v for k, v in training.items() if own in OPTIMIZER_OPTIONS.get(k, (own,))}


def settings(options: Mapping[str, Any]) -> str:
    """``loss cross_entropy, learning rate 0.05``; what is switched off is left out."""
    told = []
    for key, value in options.items():
        if value in (None, False, {}, []):
            continue
        whole = isinstance(value, Sequence) and not isinstance(value, str)
        text = " ".join(map(str, value)) if whole else str(value)
        told.append(f"{key.replace('_', ' ')} {text}")
    return ", ".join(told)


def _named(section: Mapping[str, Mapping[str, Any] | None]) -> str:
    told = [f"{name} ({settings(o)})" if o else name for name, o in section.items()]
    return "; ".join(told)


def _revision(provenance: Mapping[str, Any]) -> str:
    found = provenance.get("revision")
    if not found:
        return "unknown: not a git checkout"
    return found[:12] + (", with uncommitted changes" if provenance["uncommitted_changes"] else "")


def _versions(provenance: Mapping[str, Any]) -> str:
    known = provenance["versions"]
    told = [f"{name} {known[name]}" for name in VERSIONS if name in known]
    return ", ".join([f"Python {provenance['python']}", *told])


def _device(provenance: Mapping[str, Any]) -> str:
    cpu = provenance["cpu"]
    return f"{provenance['device']}; {cpu['model']}, {counted(cpu['cores'], 'core')}"


def _duration(provenance: Mapping[str, Any]) -> str:
    began, ended = (datetime.fromisoformat(provenance[key]) for key in ("started", "finished"))
    jobs = sum(provenance["job_seconds"].values())
    last = spell((ended - began).total_seconds())
    return f"{last} of the last run, started {began:%d %b %Y %H:%M}; {spell(jobs)} of jobs in all"
