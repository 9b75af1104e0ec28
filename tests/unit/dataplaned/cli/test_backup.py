"""`dataplaned backup`, against a real daemon."""

import sqlite3
from contextlib import closing
from typing import Any


def test_a_backup_has_what_is_stored_and_its_path_is_printed(ward: Any) -> None:
    ward.ingest()
    done = ward.cli("backup")
    path = done.out.decode().rstrip("\n")
    assert done == (0, f"{path}\n".encode(), "")
    assert path.startswith(f"{ward.daemon.root}/")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as copy:
        assert copy.execute("SELECT size FROM objects").fetchall() == [(len(ward.content),)]
    ward.ingest(b"another")
    [document] = ward.cli("backup", "--json").documents
    assert document == {"backend_id": "local", "path": path}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as copy:
        assert copy.execute("SELECT count(*) FROM objects").fetchall() == [(2,)]
