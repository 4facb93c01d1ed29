"""Small stacks of convolutions, and norms of their Jacobians by autograd."""

import torch
from torch import nn

from lipdescent.stacks.model_stack import ModelStack


def conv(a, b, **options):
    return nn.Conv2d(a, b, 3, padding=1, **options)


def stack_of(build, shape, *, count=1, seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = [build().to(dtype) for _ in range(count)]
        for module in modules:
            for name, t in module.named_buffers():
                if "running" in name:
                    t.copy_(torch.rand_like(t) + 0.5)
    return ModelStack.from_modules([m.eval() for m in modules], shape)


def jacobian_norm(stack, index=0, *, points=6):
    """The largest l2 norm of one model's Jacobian at Gaussian points, in float64."""
    net = stack.module.double()
    net.load_state_dict({name: t[index].double() for name, t in stack.state.items()})
    norms = []
    for seed in range(points):
        x = torch.randn(1, *stack.input_shape, generator=torch.Generator().manual_seed(seed))
        j = torch.autograd.functional.jacobian(net, 3 * x.double())
        norms.append(torch.linalg.matrix_norm(j.reshape(-1, x.numel()), 2))
    return float(max(norms))
