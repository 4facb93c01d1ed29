"""In what state a study is: `lipdescent status`, not installed (make status STUDY=name)."""

from lipdescent.commands.status import main

if __name__ == "__main__":
    main()
