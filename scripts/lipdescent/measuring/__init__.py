"""What is taken of a stack's checkpoints: ``measure``, by kinds (``kinds/``), and ``verifying``."""
