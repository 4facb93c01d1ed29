"""Processes, locks, Slurm, GPUs and progress: what runs a study, nothing of what it computes.

``fork_server`` starts jobs, ``folder_lock`` keeps two runs apart, ``status`` says what is done.
"""
