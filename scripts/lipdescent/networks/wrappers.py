"""Wrappers around a network that compute what it computes: taken off, with a word."""

from torch import nn

from lipdescent.networks.known_classes import qualified_name

# Class -> where it keeps the network.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}


def unwrapped(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """The network within any number of wrappers, and a note for each.

    A wrapper with hooks of its own stays: they may change what it computes.
    """
    notes = []
    while (name := WRAPPERS.get(qualified_name(module))) is not None:
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            break
        notes.append(f"measured is the network within the {type(module).__name__}")
        module = getattr(module, name)
    return module, notes
