"""When a first-order search extrapolates by how much, and looks at its bound."""

CHECKS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)


def momentum(k: int, *, most: float = 0.8) -> float:
    """Extrapolation of step k; found by experiment, of no influence on validity."""
    return min(most, k / (k + 10))
