"""Certified bracket of a network's Lipschitz constant: `lipdescent bracket`, not installed."""

from lipdescent.commands.bracket import main

if __name__ == "__main__":
    main()
