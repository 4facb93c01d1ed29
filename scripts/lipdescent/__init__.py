"""Double descent and certified Lipschitz bounds of neural networks."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# MKL chooses its kernels by where in memory a matrix begins, which in a stack of models depends on
# the models before it. This makes products round alike wherever their matrices lie, at no cost in
# speed. MKL reads it at its first product, so importing PyTorch earlier does no harm.
os.environ.setdefault("MKL_CBWR", "AUTO")

# What is offered to users, and where it lies. Nothing of it is imported before it is asked for.
OFFERED = {
    "bracket": "lipdescent.bracketing.bracket",
    "layer": "lipdescent.networks.declared",
    "load_onnx": "lipdescent.bracketing.onnx_network",
    "load": "lipdescent.analysis.loading",
    "add": "lipdescent.networks.expressions",
    "chain": "lipdescent.networks.expressions",
    "concat": "lipdescent.networks.expressions",
    "plain_network": "lipdescent.structure.exported",
    "residual": "lipdescent.networks.expressions",
    "trained": "lipdescent.measuring.trained",
}


def __getattr__(name: str) -> Any:
    if name in OFFERED:
        return getattr(importlib.import_module(OFFERED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
