"""Names of blocks of seeds in files' names, and what a name says of the seeds."""

import hashlib
from collections.abc import Sequence

# Characters of a listing: a file's name of 255 holds its suffix and a host's name as well.
LONGEST_LISTING = 100


def block_name(seeds: Sequence[int]) -> str:
    """``0-5`` if the seeds are consecutive, else all of them, ``0_2_7``.

    Where that is too long for a file's name: first and last, how many, and a digest of all, such as
    ``10234-99871_50_04821739205817263940``. Equal seeds have equal names, others have others.
    """
    first, last = seeds[0], seeds[-1]
    if len(seeds) == last - first + 1 and list(seeds) == list(range(first, last + 1)):
        return f"{first}-{last}"
    listing = "_".join(map(str, seeds))
    if len(listing) <= LONGEST_LISTING:
        return listing
    digest = int.from_bytes(hashlib.sha256(listing.encode()).digest()[:8], "little")
    return f"{first}-{last}_{len(seeds)}_{digest:020}"


def strangers(block: str, seeds: set[int]) -> set[int]:
    """Those of ``seeds`` that are not of the block with this name.

    A digest tells whether all of a block's seeds are there; of a part of them (fewer than its name
    says) only whether they lie between its first and its last.
    """
    if "-" not in block:
        return seeds - {int(seed) for seed in block.split("_")}
    span, *rest = block.split("_")
    first, last = map(int, span.split("-"))
    outside = {seed for seed in seeds if not first <= seed <= last}
    if outside or not rest or len(seeds) < int(rest[0]):
        return outside
    return set() if block_name(sorted(seeds)) == block else seeds
