"""From a file in the ONNX format to a network of layers; needs ``pip install lipdescent[onnx]``.

``file`` : a file becomes a network, or an error that names what is wrong with it.
``builder`` : from the file's nodes to vertices; what depends on no input is computed.
``elementwise``, ``weighted``, ``reducing`` : what each operator becomes. Operators that only move
numbers (reshape, transpose, slice, pad, ...) are taken by what they do to the numbers' places.
"""
