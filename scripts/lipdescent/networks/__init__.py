"""What one network computes: one expression of its layers, from which every view of it starts.

``expressions`` : the words: layers, chains, sums, concatenations.
``reading`` : from an ``nn.Module`` to its expression. Another front end (a file in another format)
is another file here that gives the same words, or a graph.
``export`` : any ``forward`` as a graph; ``reduction`` : from a graph to the expression that it is.
``operations`` : layers for what a ``forward`` does beside PyTorch's.
``graph`` : operations and how they come together, where an expression of layers does not suffice.
``known_classes`` : PyTorch's and torchvision's classes that all views take for the same.
"""
