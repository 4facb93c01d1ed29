"""A stack's training, from its draws to its checkpoints: ``stack_training.StackTraining``.

``block`` steps replicas together with an engine (``engines/``); ``losses/``, ``schedules/`` and
``label_noise/`` are plug-ins, one per file.
"""
