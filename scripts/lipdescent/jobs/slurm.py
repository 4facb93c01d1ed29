"""What a Slurm cluster allows, asked before anything is submitted."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lipdescent.jobs.time_limit import minutes_of
from lipdescent.study.schema import ConfigError

# File systems that only this machine can see.
LOCAL_FILE_SYSTEMS = ("tmpfs", "ramfs", "overlay")


@dataclass(frozen=True)
class Node:
    """One kind of node of a partition."""

    partition: str
    default: bool
    mem_mb: int
    cpus: int
    minutes: float  # the partition's time limit; infinite where there is none
    gpu: bool
    host: str = ""


@dataclass(frozen=True)
class Request:
    """What jobs of a rule ask for."""

    rule: str
    mem_mb: int
    cpus: int
    minutes: int
    gpus: int
    partition: str | None


def nodes() -> list[Node]:
    """Every node of every partition, by sinfo.

    Raises
    ------
    ConfigError
        If there is no Slurm on this machine, or its controller does not answer.
    """
    if shutil.which("sinfo") is None:
        raise ConfigError(
            "no Slurm on this machine: the command sinfo is not there. Start Snakemake on a "
            "cluster's login node, or without --workflow-profile profiles/slurm to compute here"
        )
    command = ["sinfo", "--noheader", "--Node", "--format", "%P|%m|%c|%l|%G|%n"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise ConfigError("Slurm does not answer: sinfo took more than 60 s") from None
    if done.returncode:
        raise ConfigError(f"Slurm does not answer: {done.stderr.strip()}")
    return [_node(line) for line in done.stdout.splitlines() if line.count("|") == 5]


def _node(line: str) -> Node:
    partition, memory, cpus, limit, gres, host = line.split("|")
    return Node(
        partition=partition.rstrip("*"),
        default=partition.endswith("*"),
        mem_mb=int(memory.rstrip("+")),
        cpus=int(cpus.rstrip("+")),
        minutes=minutes_of(limit),
        gpu="gpu" in gres,
        host=host,
    )


def longest(partition: str | None, known: list[Node]) -> float:
    """Time limit of the partition, or of the default one, in minutes; infinite if unknown."""
    limits = [n.minutes for n in known if n.partition == partition or (not partition and n.default)]
    return max(limits, default=float("inf"))


def requests(jobs: Iterable) -> list[Request]:
    """What Snakemake's jobs ask for, each different request once."""
    found: dict[Request, None] = {}
    for job in jobs:
        ask = job.resources
        partition = ask.get("slurm_partition")
        request = Request(
            rule=job.rule.name,
            mem_mb=ask.get("mem_mb", 0),
            cpus=ask.get("cpus_per_task") or job.threads,
            minutes=ask.get("runtime", 0),
            gpus=ask.get("gpu", 0),
            partition=str(partition) if partition else None,
        )
        found[request] = None
    return list(found)


def check(requests: Iterable[Request], known: list[Node]) -> None:
    """Refuse what the cluster can never run.

    Raises
    ------
    ConfigError
        Naming rule, what it asks for, and what there is.
    """
    for ask in requests:
        partitions = sorted({n.partition for n in known})
        if ask.partition and ask.partition not in partitions:
            raise ConfigError(
                f"slurm_partition = {ask.partition!r} (rule {ask.rule}): this cluster has "
                f"{', '.join(partitions)}"
            )
        place = [n for n in known if n.partition == ask.partition] if ask.partition else known
        if ask.gpus and not any(n.gpu for n in place):
            raise ConfigError(f"rule {ask.rule} asks for a GPU: no node of {_where(ask)} has one")
        place = [n for n in place if n.gpu or not ask.gpus]
        for name, wanted, unit in (("mem_mb", ask.mem_mb, " MB"), ("cpus", ask.cpus, "")):
            most = max((getattr(n, name) for n in place), default=None)
            if most is not None and wanted > most:
                raise ConfigError(
                    f"rule {ask.rule} asks for {name} = {wanted}{unit}: the largest node of "
                    f"{_where(ask)} has {most}{unit}. Fewer seeds per block "
                    "(execution.seeds_per_block) or another partition would do"
                )


def _where(ask: Request) -> str:
    return f"partition {ask.partition!r}" if ask.partition else "the cluster"


def check_shared(folder: str | Path, known: list[Node]) -> None:
    """Refuse a results folder that other machines cannot see.

    Raises
    ------
    ConfigError
        If the folder is on a file system in this machine's memory or of a container, and the
        cluster has nodes elsewhere.
    """
    here = os.uname().nodename.split(".")[0]
    elsewhere = sorted({n.host for n in known if n.host.split(".")[0] != here})
    kind = file_system(folder)
    if elsewhere and kind in LOCAL_FILE_SYSTEMS:
        raise ConfigError(
            f"{Path(folder).resolve()} is on a {kind} of {here}: the nodes ({elsewhere[0]}, ...) "
            "do not see it. Run in a folder of the shared file system, or say --directory"
        )


def file_system(folder: str | Path, mounts: str | Path = "/proc/mounts") -> str:
    """Type of the file system that holds ``folder``, or an empty text where nobody knows."""
    place, best, kind = Path(folder).resolve(), "", ""
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return ""
    for _, mount, found, *_ in (line.split() for line in lines if len(line.split()) > 2):
        if place.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind
