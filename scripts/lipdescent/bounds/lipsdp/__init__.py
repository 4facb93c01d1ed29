"""Machinery of LipSDP: ``shallow`` and ``deep`` search multipliers, ``certificate`` proves them.

``blocks`` is the same for a pair of convolutions, frequency by frequency.
"""
