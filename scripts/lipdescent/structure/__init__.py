"""What bounds need of a network: views of the one expression that :func:`read` gives.

``trace`` : every layer's shapes, and whether calling the network gives what was read;
``exported`` : plain networks of those with a ``forward`` of their own, compared with calling them;
``unchanged`` : whether its modules are what their classes say.
``composition`` : the product of the layers' constants along it.
``plain_chain`` : the layers of a network without branches; ``relu_chain``, ``affine_chain`` : their
matrices; ``slope_intervals`` : their activations; ``scaling`` : by powers of two.
``materialise`` : from constrained networks to ordinary ones.
"""

from lipdescent.networks.reading import read as read
