"""Norms of Jacobians at points (``norms``), and where they are largest (``ascent``, ``search``).

Nothing here is a bound: ``bounds/proofs`` makes lower bounds of it.
"""
