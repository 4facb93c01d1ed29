"""A user's network as one that bounds read, or that says why they cannot."""

from typing import NoReturn

from torch import Tensor, nn

from lipdescent.measurement import NotApplicable
from lipdescent.networks.export.network import Exported
from lipdescent.networks.reading import Unreadable
from lipdescent.stacks.model_stack import tensors
from lipdescent.structure.exported import Shapes, needs_export, plain_network, several
from lipdescent.structure.trace import check_finite, without_masks
from lipdescent.structure.unchanged import check_measurable, check_module


class Opaque(nn.Module):
    """A network of which only its outputs are known: there are lower bounds of it."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__()
        self.module, self.reason = module, reason
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def lipschitz_structure(self) -> NoReturn:
        """Say why the network cannot be read."""
        raise NotApplicable(self.reason)


def readable(
    model: nn.Module, input_shape: Shapes, *, output: int | str | None = None
) -> tuple[nn.Module, tuple[int, ...], Exported | None]:
    """The network that is measured in place of ``model``, the shape of its one input, its export.

    ``model`` itself where it is made of known layers, or says what it computes. Its plain network
    where its ``forward`` can be exported; several inputs are one vector then. Else ``model`` as a
    network of which only lower bounds exist.

    Raises
    ------
    TypeError, ValueError
        For what cannot be measured, as :func:`lipdescent.structure.exported.plain_network`.
    """
    check_measurable(model)
    shapes = several(input_shape)
    if len(shapes) == 1 and output is None and not needs_export(model):
        check_module(model)
        return model, shapes[0], None
    own = {name: t[None] for name, t in tensors(model).items() if not t.is_meta}
    check_finite(without_masks(model, own))  # by the user's own names
    try:
        found = plain_network(model, input_shape, output=output)
    except Unreadable as error:
        if len(shapes) != 1 or output is not None:
            raise
        return Opaque(model, str(error)), shapes[0], None
    return found.network, found.input_shape, found
