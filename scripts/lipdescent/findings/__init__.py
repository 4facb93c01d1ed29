"""What a study's table says, in numbers and in sentences.

``measured``, ``label_noise`` and ``slopes`` compute numbers; ``headlines``, ``tables`` and
``in_short`` word them, ``document`` has all of them, ``page`` writes it as Markdown and HTML.
Everything is taken at the last epoch.
"""
