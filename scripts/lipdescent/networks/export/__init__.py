"""From any ``forward`` to a graph of operations, through ``torch.export``.

``program`` : PyTorch's own trace of one example, and the values of what depends on no input.
``builder`` : from its operations to vertices; ``elementwise``, ``linear``, ``rearranging``,
``reducing``, ``sorting`` : what each ATen operation becomes.
``leaves`` : declared layers, which are not looked into.
``network`` : the plain network that results, and its tensors from those of the user's.
"""
