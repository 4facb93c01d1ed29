"""Where a constant is taken: ``domain.Everywhere``, ``Box`` and ``Ball``, and their ``Regions``."""
