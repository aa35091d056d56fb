"""`python -m videoflamingo`, the same as the `videoflamingo` command."""

from videoflamingo.cli import entry

if __name__ == "__main__":
    entry()
