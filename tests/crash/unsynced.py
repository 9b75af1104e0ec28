"""Run the daemon with one kind of sync doing nothing: what a suite must catch.

    python unsynced.py files|directories PYTHON -m dataplaned ARGUMENT...

SQLite's own syncs do not go through Python and stay what they are.
"""

import os
import runpy
import stat
import sys
from collections.abc import Callable
from typing import Final

_KINDS: Final = {"files": stat.S_ISREG, "directories": stat.S_ISDIR}


def _skipping(
    sync: Callable[[int], None], is_skipped: Callable[[int], bool]
) -> Callable[..., None]:
    def sync_others(fd: int) -> None:
        below = os.readlink(f"/proc/self/fd/{fd}").split("/")
        is_object = "objects" in below or "staging" in below
        if not (is_object and is_skipped(os.fstat(fd).st_mode)):
            sync(fd)

    return sync_others


def main() -> None:
    _, kind, _, _, module, *arguments = sys.argv
    os.fsync = _skipping(os.fsync, _KINDS[kind])
    os.fdatasync = _skipping(os.fdatasync, _KINDS[kind])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
