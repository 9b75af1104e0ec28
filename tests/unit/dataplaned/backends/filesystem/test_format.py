"""FORMAT.md against the schema."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import dataplaned.backends.filesystem.schema as schema_module
from dataplaned.backends.filesystem.findings import Kind
from dataplaned.backends.filesystem.root import BACKUP_NAME, CATALOG_NAME, EXPECTED

TEXT = Path(schema_module.__file__).with_name("FORMAT.md").read_text()


def first_column(part: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE)


def test_every_table_and_every_column_is_described_and_nothing_else(stopped: Any) -> None:
    described = {
        name: first_column(part)
        for name, part in re.findall(r"^### `(\w+)`(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    }
    with closing(sqlite3.connect(stopped.catalog)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        actual = {
            name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in tables
        }
    assert described == actual


def test_the_format_is_the_one_that_is_written() -> None:
    assert f"\nFormat {schema_module.FORMAT}. " in TEXT
    assert f"0x{schema_module.APPLICATION_ID:x}" in TEXT
    assert f"has format {schema_module.FORMAT + 1}, this version reads {schema_module.FORMAT}" in (
        " ".join(TEXT.split())
    )


def test_every_name_in_a_store_is_described(stopped: Any) -> None:
    layout = TEXT[TEXT.index("## Layout") : TEXT.index("## The catalog")]
    described = {name.partition("/")[0] for name in first_column(layout)}
    assert all(map(EXPECTED.fullmatch, described))
    assert {each.name for each in stopped.path.iterdir()} < described
    assert described > {CATALOG_NAME, BACKUP_NAME, "reserve"}


def test_every_finding_is_described() -> None:
    part = TEXT[TEXT.index("## What fsck finds") : TEXT.index("### A lost catalog")]
    assert set(first_column(part)) == set(Kind) - {Kind.GOOD}
