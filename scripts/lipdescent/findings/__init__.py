"""What a study's table says, in numbers and in sentences.

``measured`` and ``label_noise`` compute numbers; ``headlines``, ``tables`` and ``document`` word
them; ``page`` writes them as Markdown and HTML. Everything is taken at the last epoch.
"""
