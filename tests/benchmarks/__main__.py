"""Measure: `python -m tests.benchmarks [NAME] [options]`.

    compare        limits of the machine, the daemon and its peers, in turns (without a name)
    small_objects  rows of the catalog against files, by size
    growth         from none to a million small objects
    checking       what it costs to check every block that is served
    object_store   a bucket by way of the daemon, and by obstore alone

Nothing here is a test: figures are for reading, on a machine that does nothing else. They
need a directory on the disk that is to be measured; most of /tmp is memory.
"""

import argparse
import tempfile
from pathlib import Path

from . import checking, growth, object_store, small_objects
from .comparison import CLIENTS, Comparison
from .contestant import Pieces
from .plot import bars
from .results import Results

_NAMES = ("compare", "small_objects", "growth", "checking", "object_store")


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=_NAMES, default="compare")
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    parser.add_argument("--count", type=int, default=1_000_000, help="objects of `growth`")
    parser.add_argument("--rounds", type=int, default=3, help="of `compare` and `object_store`")
    parser.add_argument("--mib", type=int, default=1024, help="size of the large object")
    parser.add_argument("--objects", type=int, default=10_000, help="small ones, for each row")
    parser.add_argument("--no-peers", action="store_true", help="the daemon and limits alone")
    parser.add_argument("--output", type=Path, help="where results and plots go; else only shown")
    options = parser.parse_args()
    directory = options.directory.resolve()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
        Path(scratch).chmod(0o755)  # nginx gives its privileges up
        _run(options, Path(scratch))


def _run(options: argparse.Namespace, scratch: Path) -> None:
    if options.name == "compare":
        comparison = Comparison(
            scratch,
            size=options.mib * Pieces.SIZE,
            objects=options.objects,
            has_peers=not options.no_peers,
        )
        comparison.run(options.rounds)
        _report(comparison.results, options.output)
    elif options.name == "small_objects":
        small_objects.main(scratch)
    elif options.name == "growth":
        growth.main(scratch, options.count)
    elif options.name == "object_store":
        object_store.main(scratch, options.mib * Pieces.SIZE, options.rounds)
    else:
        checking.main(scratch)


def _report(results: Results, output: Path | None) -> None:
    print(results.to_markdown())
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(results.to_json())
    (output / "results.md").write_text(results.to_markdown())
    large = ("1 GiB ingest", "1 GiB serve", "4 KiB ranges, 1", "4 KiB ranges, 8")
    (output / "large.svg").write_text(bars(results, "A large object", large))
    for row in ("ingest", "stat", "read", "delete"):
        rows = [f"4 KiB objects, {row}, {clients}" for clients in CLIENTS]
        picture = bars(results, f"4 KiB objects: {row}, by number of clients", rows)
        (output / f"small-{row}.svg").write_text(picture)


if __name__ == "__main__":
    main()
