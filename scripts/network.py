"""One network of a study, explained: `lipdescent network`, not installed."""

from lipdescent.commands.network import main

if __name__ == "__main__":
    main()
