"""A figure of several architectures of a data set per file.

Each has ``draw(groups, *, statistics, losses)``, groups and losses by architecture, which
returns a matplotlib Figure; its docstring is the caption.
"""
