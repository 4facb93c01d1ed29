"""From a file in the ONNX format to a network of layers; needs ``pip install lipdescent[onnx]``.

``file`` : a file becomes a network, or an error that names what is wrong with it.
``builder`` : its nodes become PyTorch's operations, which :mod:`lipdescent.networks.export` reads
like those of any ``forward``; what depends on no input is computed.
``calls`` : one node. ``elementwise``, ``weighted``, ``reducing``, ``resampling``, ``recurrent`` :
what each operator computes. Operators that only move numbers (reshape, transpose, slice, pad, ...)
are taken by what they do to the numbers' places.
"""
