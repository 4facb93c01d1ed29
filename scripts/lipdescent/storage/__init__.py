"""Files that appear when complete: ``table``, ``checkpoints``, and the ``stamps`` in them.

``atomic`` writes all of them; ``places`` says what lies where below results/.
"""
