"""Experiments beside the grid: one file each.

``run(**options)`` returns a tidy table (pandas), ``draw(frame)`` its figure; the module's
docstring is the figure's caption.
"""
