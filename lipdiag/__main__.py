"""`python -m lipdiag` is `lipdiag`."""

from .cli import main

if __name__ == "__main__":
    main()
