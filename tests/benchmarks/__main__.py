"""Measure: `python -m tests.benchmarks NAME [--directory DIR] [--count N]`.

    small_objects  rows of the catalog against files, by size
    growth         from none to a million small objects
    checking       what it costs to check every block that is served

Nothing here is a test: figures are for reading, on a machine that does nothing else. They
need a directory on the disk that is to be measured; most of /tmp is memory.
"""

import argparse
import tempfile
from pathlib import Path

from . import checking, growth, small_objects


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", choices=("small_objects", "growth", "checking"))
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    parser.add_argument("--count", type=int, default=1_000_000, help="objects of `growth`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as scratch:
        directory = Path(scratch)
        if options.name == "small_objects":
            small_objects.main(directory)
        elif options.name == "growth":
            growth.main(directory, options.count)
        else:
            checking.main(directory)


if __name__ == "__main__":
    main()
