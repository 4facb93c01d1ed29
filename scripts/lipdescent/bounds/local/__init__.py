"""Machinery of bounds of ReLU chains on a domain: the best ones, and branch and bound."""
