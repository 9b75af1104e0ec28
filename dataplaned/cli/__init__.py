"""The command line: `dataplaned serve` runs the daemon, the other commands are its clients.

Importing this package costs click and nothing else. Event loops, the wire format and the
terminal library are imported by the functions that need them, so that `--help` and shell
completion answer at once.
"""

from .program import main as main
