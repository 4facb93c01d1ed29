"""Values and constants of a graph's vertices on a domain, rounded outwards: ``upper_graph``.

``analysis`` goes from vertex to vertex, ``known`` is what it knows of one; the rules are in
``linear_maps``, ``elementwise``, ``scalars`` and ``tokens``.
"""
