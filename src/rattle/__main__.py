"""`python -m rattle` is the `rattle` command."""

from rattle.cli import main

if __name__ == "__main__":
    main()
