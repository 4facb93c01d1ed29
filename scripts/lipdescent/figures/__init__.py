"""A figure of one data set and architecture per file.

Each has ``draw(group, *, statistics, loss)``, which returns a matplotlib Figure; its
docstring is the caption.
"""
