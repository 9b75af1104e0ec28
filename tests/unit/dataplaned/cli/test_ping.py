"""`dataplaned ping`, with a daemon and without."""

import re
from pathlib import Path
from typing import Any


def test_a_daemon_answers(cli: Any) -> None:
    done = cli("ping")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(rb"answered in \d+\.\d\d ms\n", done.out)
    (document,) = cli("ping", "--json").documents
    assert 0 < document["seconds"] < 60


def test_nobody_answers(cli: Any, tmp_path: Path) -> None:
    cli.socket_path = str(tmp_path / "none")
    done = cli("ping")
    assert (done.code, done.out) == (69, b"")
    assert done.err.count("\n") == 1
