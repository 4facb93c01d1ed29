"""Networks whose Lipschitz constant is constrained while they train.

A constraint is a parametrisation of a weight (``torch.nn.utils.parametrize``): the optimiser sees
the raw weight, the layer uses the constrained one, under ``functional_call`` and ``vmap`` too.
:func:`lipdescent.constrained.plain.materialise` turns a stack of such networks into ordinary
layers whose norms are certified.
"""
