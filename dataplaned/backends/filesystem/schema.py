"""The catalog as a file: its tables, its config, and what opening it has to make sure of.

`FORMAT.md` says what every column means. SQLite in WAL mode with `synchronous=FULL`: a commit
is on disk before it returns and before any other connection sees it. What a killed process
left in the WAL is different: it is seen on opening without being durable, so opening
checkpoints first.
"""

import sqlite3
from typing import Final

from ...digests import DIGEST_SIZE
from ..base import BackendError

#: `PRAGMA application_id` of a catalog: "dpcl". `file(1)` and a wrong path show it.
APPLICATION_ID: Final = 0x6470636C

#: `PRAGMA user_version`: the format. 1 had every object in a file and was never released.
FORMAT: Final = 2

#: Pages of the WAL after which a commit folds it into the file: 16 MiB. SQLite's own 1000
#: wrote the same pages of the two digest trees four times as often.
_CHECKPOINT_PAGES: Final = 4096

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE objects (
    blake3         BLOB PRIMARY KEY CHECK (length(blake3) = {DIGEST_SIZE}),
    sha256         BLOB NOT NULL UNIQUE CHECK (length(sha256) = {DIGEST_SIZE}),
    size           INTEGER NOT NULL CHECK (size >= 0),
    file           TEXT,
    content        INTEGER,
    generation     INTEGER NOT NULL,
    stored_at_ms   INTEGER NOT NULL,
    verified_at_ms INTEGER NOT NULL,
    stamp          TEXT NOT NULL,
    is_rotten      INTEGER NOT NULL DEFAULT 0 CHECK (is_rotten IN (0, 1)),
    CHECK ((file IS NULL) <> (content IS NULL))
) WITHOUT ROWID;
CREATE INDEX objects_by_verification ON objects (verified_at_ms, is_rotten, size);
CREATE TABLE contents (
    id    INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
);
CREATE TABLE blocks (
    blake3  BLOB NOT NULL,
    first   INTEGER NOT NULL,
    digests BLOB NOT NULL,
    PRIMARY KEY (blake3, first)
);
CREATE TABLE quarantine (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    blake3      BLOB NOT NULL CHECK (length(blake3) = {DIGEST_SIZE}),
    size        INTEGER NOT NULL,
    file        TEXT UNIQUE,
    content     INTEGER UNIQUE,
    reason      TEXT NOT NULL,
    found_at_ms INTEGER NOT NULL
);
CREATE INDEX quarantine_by_object ON quarantine (blake3);
CREATE TABLE store (
    only_row              INTEGER PRIMARY KEY CHECK (only_row = 1),
    generation            INTEGER NOT NULL,
    objects               INTEGER NOT NULL,
    bytes                 INTEGER NOT NULL,
    run                   TEXT NOT NULL,
    previous_run          TEXT NOT NULL,
    is_backup             INTEGER NOT NULL,
    is_scrub_paused       INTEGER NOT NULL,
    scrub_asked_at_ms     INTEGER NOT NULL,
    catalog_checked_at_ms INTEGER NOT NULL
);
INSERT INTO store VALUES (1, 0, 0, 0, '', '', 0, 0, 0, 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
COMMIT;
"""


def connect(
    path: str, *, cache_size: int = 2 * 1024 * 1024, timeout_s: float = 10
) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time.

    Args:
        path: The catalog.
        cache_size: Bytes of pages that the connection may hold.
        timeout_s: Seconds to wait for locks of other connections.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=timeout_s, cached_statements=64
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        # A page that the disk cannot read must be an error, not a SIGBUS.
        connection.execute("PRAGMA mmap_size = 0")
        # FULL syncs the WAL at every commit; NORMAL loses acknowledged rows on power loss.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = {-(cache_size // 1024)}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()  # it may not be a database
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: str, last_run: str = "") -> None:
    """Make an empty file a catalog; make what a catalog shows durable before it is shown.

    Args:
        connection: Of the catalog.
        path: Of the catalog, for the message.
        last_run: As for `begin_run`.

    Raises:
        BackendError: It is something else, of another format, in use, or empty although its
            store had one.
    """
    tables = check_identity(connection, path)
    if not tables and last_run:
        raise BackendError(f"{path} is empty: dataplaned fsck --repair makes a new one")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if not tables:
        connection.executescript(_SCHEMA)
    # Rows that a killed run left in the WAL can be read now but may not be on disk; answering
    # from them would acknowledge what a power cut takes back.
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise BackendError(f"{path} is in use by another process")


def check_identity(connection: sqlite3.Connection, path: str) -> int:
    """See that a file is a catalog of this format, or empty. Returns its number of tables.

    Raises:
        BackendError: It is neither. What is not ours stays as it is.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise BackendError(f"{path} is not a catalog")
    if tables and version != FORMAT:
        raise BackendError(f"{path} has format {version}, this version reads {FORMAT}")
    return int(tables)


def begin_run(connection: sqlite3.Connection, path: str, run: str, last_run: str) -> None:
    """Note that the store was opened, and see that the catalog is the one it had last.

    An older catalog, put back by hand, does not know the objects that came since: to the
    sweep their files would be garbage.

    Args:
        connection: Of the catalog.
        path: Of the catalog, for the message.
        run: Names this opening.
        last_run: The one that the store's lock was last held by; empty if that is not known.

    Raises:
        BackendError: It is a backup or older than the store, or says nothing of it.
    """
    found = connection.execute("SELECT run, previous_run, is_backup FROM store").fetchone()
    if found is None:
        raise BackendError(
            f"{path} says nothing of its store: dataplaned fsck --repair makes a new one"
        )
    catalog_run, previous_run, is_backup = found
    # The lock's note is written after this commit; a crash between the two leaves it one behind.
    is_older = catalog_run and last_run and last_run not in (catalog_run, previous_run)
    if is_backup or is_older:
        raise BackendError(
            f"{path} is {'a backup' if is_backup else 'older than its store'}: "
            "objects that came since would be lost, dataplaned fsck --repair takes them over"
        )
    connection.execute("UPDATE store SET run = ?, previous_run = ?", (run, last_run or catalog_run))
