"""What a network computes: one expression of its layers, and the views of it that bounds need.

``expressions`` : the words: layers, chains, sums, concatenations.
``trace`` : from a module to its expression, with every layer's shapes; ``known_networks`` are read
off their class.
``composition`` : the product of the layers' constants along it.
``relu_chain``, ``affine_chain``, ``slope_intervals`` : a network as a chain of matrices.
``materialise`` : from constrained networks to ordinary ones.
"""
