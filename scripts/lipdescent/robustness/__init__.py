"""What a constant is good for: certified radii (``certificates``), attacks, errors of logits."""
