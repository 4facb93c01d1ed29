"""Double descent and certified Lipschitz bounds of neural networks."""

import os

__version__ = "0.1.0"

# MKL chooses its kernels by where in memory a matrix begins, which in a stack of models depends on
# the models before it. This makes products round alike wherever their matrices lie, at no cost in
# speed. MKL reads it at its first product, so importing PyTorch earlier does no harm.
os.environ.setdefault("MKL_CBWR", "AUTO")
