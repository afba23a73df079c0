"""`python -m flows.cli`: the `requant` command."""

from flows.cli import main

if __name__ == "__main__":
    main()
