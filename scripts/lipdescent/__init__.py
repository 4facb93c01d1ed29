"""Double descent and certified Lipschitz bounds of neural networks."""

__version__ = "0.1.0"
