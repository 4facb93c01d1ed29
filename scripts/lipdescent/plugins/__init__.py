"""Plug-ins by their file's name (``lookup``), and what a file says of itself (``signatures``)."""
