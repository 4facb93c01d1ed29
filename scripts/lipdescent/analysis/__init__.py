"""A study's table as arrays, and what is computed of them; no plotting library.

Begin with ``groups.load_group`` (arrays over width, label noise, epoch and seed) and ``ladder``
(which bounds there are, the best of each side); ``statistics`` has means over seeds.
"""
