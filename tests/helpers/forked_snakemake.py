"""Snakemake's command line in a fork of a process that has imported Snakemake and PyTorch.

Run as ``forked_snakemake.py ADDRESS forks ARGUMENTS``, of a server of jobs/fork_server.py. Its
jobs are forks of that very process too, so nothing is imported again that took seconds; with
``alone`` in place of ``forks`` they are processes of their own. This library is imported by none of
them beforehand: each sees the code of its own Snakefile.
"""

import os
import sys

FORKED = "in the fork"

if sys.argv[1] != FORKED:  # the process that asks for the fork, and waits
    from lipdescent.jobs import fork_server, forking

    os.environ[forking.ADDRESS] = sys.argv[1]
    sys.argv.insert(1, FORKED)
    fork_server.hand_over()
    sys.exit("no fork was made: its environment differs from this one's, or the server has gone")

from snakemake.cli import main  # noqa: E402 - only in the fork

if sys.argv[3] == "forks":
    os.environ["LIPDESCENT_FORK_SERVER"] = sys.argv[2]
main(sys.argv[4:])
