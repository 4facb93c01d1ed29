"""Sets of points at which bounds are taken in place of the data: one per file.

Each module offers ``draw(stack, inputs, *, labels, seed, **options)``, which gives split ->
:class:`lipdescent.points._parts.Points`. ``inputs`` are the data, split -> (n, *input_shape),
``labels`` theirs (int64 (n,) or each model's own, (num_models, n)) or None. Whatever the points
are, a lower bound that a point proves is one: the proofs never ask where a point comes from.
"""
