"""Kernels of a whole training step, one kind of network per file; ``fused_step`` calls them."""
