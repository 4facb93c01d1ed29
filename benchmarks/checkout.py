"""Where this checkout is. To import it is to get its library, installed or not, and no other.

A benchmark is run as ``python benchmarks/NAME.py``, and imports this file before ``lipdescent``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/helpers")]
