"""`python -m mien`."""

from mien.runtime.cli import main

if __name__ == "__main__":
    main()
