"""Rounding and nothing else: numbers surely not below, or not above, what they stand for.

Authors of bounds take ``rounding``; behind it are ``ulps`` and ``certified_norms``.
"""
