"""Blocks of replicas that do not fit the device's memory are halved until they do.

A replica's result does not depend on its block, so that halving changes nothing but the speed (on
CUDA, where kernels are chosen by shape, the last digits).
"""

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

from lipdescent.training.block import Block

logger = logging.getLogger(__name__)


def on_every(
    blocks: list[Block], work: Callable[[Block], Any], *, changes: bool = False
) -> list[Any]:
    """``work(block)`` for each block in turn; ``blocks`` is changed where one is halved.

    Every halving is logged.

    Parameters
    ----------
    changes : ``work`` changes the block's models: they are put back before it is tried again.

    Raises
    ------
    torch.OutOfMemoryError
        If a single replica does not fit, or if a block that has fitted before no longer does.
    """
    results: list[Any] = []
    while len(results) < len(blocks):
        block, place = blocks[len(results)], len(results)
        before = None
        if changes and not block.fits:
            before = {name: tensor.cpu().clone() for name, tensor in block.live_tensors().items()}
        try:
            results.append(work(block))
            continue
        except torch.OutOfMemoryError as error:
            _check(block, error, hopeless=changes and before is None)
        # Only here, outside the handler, does nothing hold the memory of what failed any more.
        if before is not None:
            for name, tensor in block.live_tensors().items():
                tensor.copy_(before[name])
        blocks[place : place + 1] = block.halves()
        del block
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        sizes = [b.part.stop - b.part.start for b in blocks[place : place + 2]]
        logger.info("out of memory: %d models at once are too many, now %d", sum(sizes), max(sizes))
    return results


def _check(block: Block, error: torch.OutOfMemoryError, *, hopeless: bool) -> None:
    count, device = block.part.stop - block.part.start, block.inputs.device
    if count == 1:
        raise torch.OutOfMemoryError(
            f"one model alone does not fit the memory of {device} with batch_size = "
            f"{block.batch_size}: allowed is what fits ({error})"
        ) from error
    if hopeless:
        raise error
