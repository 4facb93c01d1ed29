"""Wheels that the workflow needs on a GPU machine without a network, besides what such a one has.

    python benchmarks/gpu_wheels.py [FOLDER]     default .whl, which benchmarks/gpu.sh installs

Versions are this environment's own; the wheels fit Python 3.12 on Linux with an x86-64 processor.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What such machines have, with all that these need: not carried.
PRESENT = {
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "scipy",
    "scikit-learn",
}
# Imported by mnist1d's plotting and by Snakemake's solver of job orders, which are not used.
UNUSED = {"pulp"}
PLATFORM = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "os_name": "posix",
    "extra": "",
}
LARGEST = 60  # MB


def needed() -> dict[str, str]:
    """Name -> version of the project's dependencies and all that they need, as installed here."""
    found: dict[str, str] = {}
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    open_ends = [Requirement(text).name for text in project["dependencies"]]
    while open_ends:
        name = canonicalize_name(open_ends.pop())
        if name in found or name in PRESENT | UNUSED:
            continue
        package = metadata.distribution(name)
        found[name] = package.version
        for text in package.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(PLATFORM):
                open_ends.append(requirement.name)
    return found


def fetch(package: str, folder: Path) -> None:
    """Put a package's wheel into ``folder``; made here where only its sources are published.

    Raises
    ------
    RuntimeError
        If there is none that fits.
    """
    pip = [sys.executable, "-m", "pip"]
    into = ["-qq", "--no-deps", package]
    fits = ["--python-version=3.12", "--implementation=cp", "--only-binary=:all:"]
    fits += [f"--platform=manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)]
    fits += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    if subprocess.run(
        [*pip, "download", *into, "-d", str(folder), *fits], capture_output=True
    ).returncode:
        subprocess.run([*pip, "wheel", *into, "-w", str(folder)], check=True)
        name = canonicalize_name(package.split("==")[0]).replace("-", "_")
        if not any(path.name.lower().startswith(name) for path in folder.glob("*none-any.whl")):
            raise RuntimeError(f"{package}: only sources, which make no wheel for every machine")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".whl")
    for old in folder.glob("*.whl"):
        old.unlink()
    packages = [f"{name}=={version}" for name, version in sorted(needed().items())]
    for package in packages:
        fetch(package, folder)
    size = sum(path.stat().st_size for path in folder.glob("*.whl")) / 1e6
    print(f"{len(packages)} wheels, {size:.1f} MB, in {folder}")
    if size > LARGEST:
        sys.exit(f"{size:.1f} MB; allowed are {LARGEST}")


if __name__ == "__main__":
    main()
