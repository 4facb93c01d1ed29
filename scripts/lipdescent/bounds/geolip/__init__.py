"""Machinery of ``upper_geolip``: SDPs by ascent, certified by duals (``natural``, ``deep``)."""
