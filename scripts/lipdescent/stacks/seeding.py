"""Random generators by purpose: no draw depends on another, on the device or on stack-mates."""

import hashlib

import torch


def seed_of(*key: object) -> int:
    """A 63-bit seed from a key such as ``("order", seed, epoch)``; equal keys, equal seeds."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*key: object) -> torch.Generator:
    """A fresh CPU generator for the key."""
    return torch.Generator().manual_seed(seed_of(*key))
