"""Objects looked up in a catalog, over one connection."""

import sqlite3
import threading
from typing import Any, Final

from dataplane_protocol import Digest

from .rows import COLUMNS, Row, key_of, value_of

#: One flipped bit makes text of a blob.
CONTENT: Final = "SELECT CAST(bytes AS BLOB) FROM contents WHERE id = ?"


class Lookups:
    """What a connection that reads is asked for most. Everything here blocks.

    Args:
        connection: For this alone; any thread may call, and they take turns.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._reading = connection
        self._read_lock = threading.Lock()
        connection.execute("PRAGMA query_only = ON")

    def find(self, digest: Digest) -> Row | None:
        """Look an object up by either digest."""
        rows = self._read(f"SELECT {COLUMNS} FROM objects WHERE {key_of(digest)}", value_of(digest))
        return Row(*rows[0]) if rows else None

    def content(self, row: Row) -> bytes | None:
        """Give the bytes of an object that has no file; `None` if this copy is gone."""
        rows = self._read(CONTENT, row.content)
        return rows[0][0] if rows else None

    def block_row(self, blake3: bytes, first: int) -> bytes | None:
        """Give one row of block digests, which begins with the index `first`."""
        rows = self._read(
            "SELECT CAST(digests AS BLOB) FROM blocks WHERE blake3 = ? AND first = ?",
            blake3,
            first,
        )
        return rows[0][0] if rows else None

    def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._read_lock:
            return self._reading.execute(statement, values).fetchall()
