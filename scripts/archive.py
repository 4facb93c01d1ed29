"""Pack what a study publishes, or check such a file: `lipdescent archive`, not installed."""

from lipdescent.commands.archive import main

if __name__ == "__main__":
    main()
