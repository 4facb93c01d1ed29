"""Words for what is told of jobs and results."""


def counted(number: int, word: str) -> str:
    """``6 seeds``, ``1 seed``."""
    return f"{number} {word}{'s' * (number != 1)}"
