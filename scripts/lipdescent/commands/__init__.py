"""What the terminal offers: the command ``lipdescent`` and its sub-commands, one per file."""
