"""System calls of a process as strace(1) wrote them down, with their beginnings and ends.

Two threads' calls overlap. strace then cuts a call in two lines, `<unfinished ...>` and
`<... resumed>`, and what matters here is which came first: so every call knows the number of the
line on which it began and of the one on which it ended.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

#: For each call that changes a file's bytes, which of its descriptors is that file.
_WRITES: Final = {
    "write": 0,
    "pwrite64": 0,
    "writev": 0,
    "pwritev": 0,
    "pwritev2": 0,
    "ftruncate": 0,
    "fallocate": 0,
    "sendfile": 0,
    "copy_file_range": 1,
    "splice": 1,
}
_SYNCS: Final = ("fsync", "fdatasync", "syncfs")
_RENAMES: Final = ("rename", "renameat", "renameat2", "link", "linkat")
_UNLINKS: Final = ("unlink", "unlinkat")
_MKDIRS: Final = ("mkdir", "mkdirat")
_ACCEPTS: Final = ("accept", "accept4")
_SENDS: Final = ("sendmsg", "sendto", "write", "writev")

_CALLS: Final = {*_WRITES, *_SYNCS, *_RENAMES, *_UNLINKS, *_MKDIRS, *_ACCEPTS, *_SENDS}

_LINE: Final = re.compile(r"(\d+)\s+(.*)")
_UNFINISHED: Final = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED: Final = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_WHOLE: Final = re.compile(r"(\w+)\((.*)\)\s+= (.*)")
_DESCRIPTOR: Final = re.compile(r"\b(?:\d+|AT_FDCWD)<([^>]*)>")
_PATH: Final = re.compile(r'(?:\b(?:\d+|AT_FDCWD)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')


@cache
def why_not_traced() -> str:
    """Say why no process can be traced here; empty when one can."""
    strace = shutil.which("strace")
    if strace is None:
        return "needs strace"
    probe = subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], check=False)
    return "needs leave to trace" if probe.returncode else ""


def tracer(output: Path) -> Sequence[str]:
    """Give the command that writes a program's calls down; the program stays our child."""
    calls = ",".join(f"?{name}" for name in sorted(_CALLS))
    options = ["-D", "-f", "-qq", "-y", "-s", "0", "-e", "signal=none", "-e", f"trace={calls}"]
    return ["strace", *options, "-o", str(output)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that did not fail.

    Attributes:
        begun: Number of the line on which it was entered.
        ended: Number of the line on which it had returned; the same one, if it was undisturbed.
    """

    name: str
    arguments: str
    result: str
    begun: int
    ended: int

    @property
    def target(self) -> str | None:
        """What the descriptor that it works on stands for."""
        found = _DESCRIPTOR.findall(self.arguments)
        index = _WRITES.get(self.name, 0)
        return found[index].removesuffix("(deleted)").rstrip() if index < len(found) else None

    @property
    def paths(self) -> Sequence[str]:
        """The names it was given, each put behind its directory's."""
        return [
            path if path.startswith("/") or not directory else f"{directory}/{path}"
            for directory, path in _PATH.findall(self.arguments)
        ]


class Trace:
    """What one process did, in order of the calls' beginnings."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        self.calls = sorted(_parse(self.lines), key=lambda call: call.begun)
        accepted = {
            _DESCRIPTOR.findall(call.result)[0] for call in self.calls if call.name in _ACCEPTS
        }
        self.answers = [
            call for call in self.calls if call.name in _SENDS and call.target in accepted
        ]

    @classmethod
    def read(cls, path: Path) -> "Trace":
        """Read what `tracer` wrote."""
        return cls(path.read_text(errors="replace").splitlines())

    def writes(self, path: str) -> list[Call]:
        """Give the calls that change the bytes of a file that has this name at the time."""
        return [call for call in self.calls if call.name in _WRITES and call.target == path]

    def writes_below(self, directory: str) -> list[Call]:
        """Give the calls that change the bytes of any file below a directory."""
        return [
            call
            for call in self.calls
            if call.name in _WRITES and (call.target or "").startswith(f"{directory}/")
        ]

    def syncs(self, path: str) -> list[Call]:
        """Give the calls that put a file or a directory on disk."""
        return [
            call
            for call in self.calls
            if call.name == "syncfs" or (call.name in _SYNCS and call.target == path)
        ]

    def renames(self, directory: str) -> list[tuple[Call, str, str]]:
        """Give the calls that make a name below a directory: the call, from where, to where."""
        return [
            (call, call.paths[0], call.paths[1])
            for call in self.calls
            if call.name in _RENAMES and call.paths[1].startswith(f"{directory}/")
        ]

    def removals(self, directory: str) -> list[tuple[Call, str]]:
        """Give the calls that take a name away from below a directory, and the name."""
        takers = (*_UNLINKS, *(name for name in _RENAMES if name.startswith("rename")))
        return [
            (call, call.paths[0])
            for call in self.calls
            if call.name in takers and call.paths[0].startswith(f"{directory}/")
        ]

    def made_directories(self, directory: str) -> list[tuple[Call, str]]:
        """Give the calls that make a directory at or below one, and its name."""
        return [
            (call, call.paths[0])
            for call in self.calls
            if call.name in _MKDIRS and f"{call.paths[0]}/".startswith(f"{directory}/")
        ]

    def without(self, calls: Iterable[Call]) -> "Trace":
        """Give the trace of a process that never made these calls."""
        dropped = {line for call in calls for line in (call.begun, call.ended)}
        return Trace(text for line, text in enumerate(self.lines) if line not in dropped)

    def moved(self, call: Call, line: int) -> "Trace":
        """Give the trace of a process that made this call at another line, undisturbed."""
        thread = _LINE.match(self.lines[call.begun])
        assert thread
        text = f"{thread[1]} {call.name}({call.arguments}) = {call.result}"
        lines: list[str | None] = list(self.lines)
        lines[call.begun] = lines[call.ended] = None
        lines.insert(line, text)
        return Trace(text for text in lines if text is not None)


def _parse(lines: Iterable[str]) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, text = match.groups()
        start = number
        if unfinished := _UNFINISHED.fullmatch(text):
            begun[thread] = number, f"{unfinished[1]}({unfinished[2]}"
            continue
        if resumed := _RESUMED.fullmatch(text):
            if thread not in begun:
                continue
            start, head = begun.pop(thread)
            text = head + resumed[2]
        whole = _WHOLE.fullmatch(text)
        if whole and not whole[3].startswith(("-1", "?")):
            yield Call(
                name=whole[1], arguments=whole[2], result=whole[3], begun=start, ended=number
            )
