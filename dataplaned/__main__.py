"""`python -m dataplaned` is `dataplaned`."""

from dataplaned.cli import main

if __name__ == "__main__":
    main()
