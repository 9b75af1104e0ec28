"""Changes the first stored byte of an object of a filesystem store: `tamper.py ROOT ADDRESS`."""

import os
import sqlite3
import sys
from pathlib import Path


def main(root: str, address: str) -> None:
    algorithm, _, digits = address.partition(":")
    assert algorithm in ("blake3", "sha256")
    catalog = sqlite3.connect(f"{root}/catalog.sqlite3")
    query = f"SELECT blake3, file FROM objects WHERE {algorithm} = ?"
    ((blake3, name),) = catalog.execute(query, (bytes.fromhex(digits),)).fetchall()
    catalog.close()
    path = Path(root, "objects", blake3.hex()[:2], name)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.chmod(path, 0o400)


if __name__ == "__main__":
    main(*sys.argv[1:])
