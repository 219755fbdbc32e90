"""`python -m mien`: the command line, where the `mien` script is not on the path."""

from mien.runtime.cli import main

main()
