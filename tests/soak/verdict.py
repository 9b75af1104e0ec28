"""What has to be there after a soak, by the histories alone, and whether it is, by other tools."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplane_client.blocking import connect
from dataplane_protocol import ContentAddress, ObjectCorruptError, ObjectNotFoundError


@dataclass
class Expected:
    """What the histories say of objects, by address.

    Attributes:
        stored: Acknowledged and not deleted since: their SHA-256.
        gone: Deleted, acknowledged, and not ingested again since.
        events: How often each kind of note was made.
        wrong: Notes of what must never happen.
        damage: Objects that somebody was told of as bad.
    """

    stored: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    healed: int = 0


def read_histories(directory: Path) -> Iterator[dict[str, Any]]:
    """Give all notes, those of one client after those of another."""
    for path in sorted(directory.glob("history-*")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def expect(notes: Iterable[dict[str, Any]]) -> Expected:
    """Work out what has to be there. What was begun and not acknowledged may be either way."""
    expected = Expected()
    for note in notes:
        kind = note["kind"]
        expected.events[kind] += 1
        match kind:
            case "stored":
                expected.stored[note["address"]] = note["sha256"]
                expected.gone.discard(note["address"])
                expected.healed += note["outcome"] == "healed"
            case "delete":
                # From here on it may be gone.
                expected.stored.pop(note["address"], None)
            case "deleted":
                expected.gone.add(note["address"])
            case "WRONG" | "MISSING":
                expected.wrong.append(json.dumps(note))
    return expected


def examine(
    socket_path: str, root: Path, expected: Expected, rotten: set[str], work: Path
) -> list[str]:
    """Hold a daemon, and its store's files, against what has to be there.

    Args:
        socket_path: Of the daemon, which runs.
        root: Of its store.
        expected: What has to be there.
        rotten: Objects that were made bad: they may be told to be so, and nothing else.
        work: An empty directory for what is served.

    Returns:
        A line for everything that is wrong.
    """
    problems = list(expected.wrong)
    sha256, blake3 = [], []
    with connect(socket_path) as client:
        for number, (address, digest) in enumerate(expected.stored.items()):
            path = work / str(number)
            try:
                with client.serve_object(ContentAddress(address)) as body, path.open("wb") as file:
                    for piece in body:
                        file.write(piece)
            except ObjectNotFoundError:
                problems.append(f"lost: {address}")
                continue
            except ObjectCorruptError:
                if address not in rotten:
                    problems.append(f"said to be bad, and was not touched: {address}")
                path.unlink(missing_ok=True)
                continue
            sha256.append(f"{digest}  {path}")
            blake3.append(f"{address.partition(':')[2]}  {path}")
        for address in expected.gone - expected.stored.keys():
            if client.stat_objects([ContentAddress(address)]):
                problems.append(f"came back: {address}")
    problems += _check("sha256sum", sha256, work)
    problems += _check("b3sum", blake3, work)
    files = [path for path in (root / "objects").rglob("*") if path.is_file()]
    named = [
        f"{path.name.partition('.')[0]}  {path}"
        for path in files
        if f"blake3:{path.name.partition('.')[0]}" not in rotten
    ]
    return problems + _check("b3sum", named, work)


def _check(tool: str, lines: list[str], work: Path) -> list[str]:
    """Have another tool check digests: that of the machine, which shares nothing with ours."""
    if not lines:
        return []
    listing = work / f"list-{tool}"
    listing.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [tool, "--quiet", "--check", str(listing)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return []
    return [f"{tool}: {line}" for line in (done.stdout + done.stderr).splitlines()]
