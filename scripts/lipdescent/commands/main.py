"""The command ``lipdescent`` of an installation: one sub-command per file beside this one."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import lipdescent

COMMANDS = {
    "bracket": "certified bounds of the Lipschitz constant of a network in a file of yours",
    "network": "what a study in results/ found of one of its networks, and its weights",
    "status": "what of a study in results/ is done, running or failed",
    "archive": "pack what a study in results/ publishes, or check such a file",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a sub-command; ``arguments`` are the command line's if not given.

    Only the sub-command that is asked for is imported: bounds take seconds to import.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    listed = "\n".join(f"  {name:9} {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "lipdescent",
        description=f"{lipdescent.__doc__}\n\n{listed}\n\nlipdescent COMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="lipdescent [-h] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=lipdescent.__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    name = parser.parse_args(arguments[:1]).command
    command = importlib.import_module(f"lipdescent.commands.{name}")
    command.main(arguments[1:], prog=f"lipdescent {name}")
