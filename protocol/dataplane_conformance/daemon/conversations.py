"""Every conversation of `calls.json`, played as the client."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

from ..frames import Control, Frame
from ..vectors import Conversation, Step, conversations, matches, objects
from ..verdicts import Case, FailedError, Level, SkippedError, case_id, shown
from .descriptors import check_file, read_all
from .subject import Daemon, expect_closed

#: Conversations whose answers depend on what else is in the store.
_LISTINGS: Final = ("list of an empty store", "list")

_FEATURE: Final = "feature:"
_MAX_SIZE: Final = "max-object-size:"


def cases() -> Iterator[Case[Daemon]]:
    """Give a case for each conversation that a healthy daemon can have."""
    for conversation in conversations():
        if "server-role" in conversation.needs:
            continue
        yield Case(
            case_id=case_id(conversation.section, conversation.name),
            title=f"The conversation goes as in calls.json: {conversation.name}.",
            level=Level.MUST,
            play=_player(conversation),
        )


def _player(conversation: Conversation) -> Callable[[Daemon], None]:
    def play(daemon: Daemon) -> None:
        if conversation.unknown:
            raise SkippedError(conversation.unknown)
        features = _features(daemon, conversation.needs)
        if conversation.name in _LISTINGS:
            daemon.require_empty()
        daemon.require_own(repr(conversation.connections))
        for steps in conversation.connections:
            with contextlib.closing(_Client(daemon, features)) as client:
                for step in steps:
                    client.play(step)
                client.check_descriptors()

    return play


def _features(daemon: Daemon, needs: Sequence[str]) -> list[str]:
    """Give the features that are needed, or skip for want of something else."""
    features: list[str] = []
    for need in needs:
        if need.startswith(_FEATURE):
            features.append(need.removeprefix(_FEATURE))
        elif need == "tamper":
            daemon.require_tamper()
        elif need.startswith(_MAX_SIZE):
            if daemon.max_object_size != int(need.removeprefix(_MAX_SIZE)):
                raise SkippedError(f"needs a daemon with --{need.replace(':', ' ')}")
        elif need != "descriptors":
            raise SkippedError(f"needs {need}, which this kit does not know")
    return features


class _Client:
    """One connection that does what the steps say."""

    def __init__(self, daemon: Daemon, features: Sequence[str]) -> None:
        self._daemon = daemon
        self._features = features
        self._wire = daemon.dial(takes_descriptors="serve_fd" in features)
        self._kept: list[Frame | None] = []
        self._descriptors: list[tuple[int, bytes]] = []

    def close(self) -> None:
        self._wire.close()
        for descriptor, _ in self._descriptors:
            os.close(descriptor)

    def check_descriptors(self) -> None:
        """Look at what came, after all that may have happened to the objects."""
        for descriptor, content in self._descriptors:
            check_file(descriptor, len(content))
            if read_all(descriptor) != content:
                raise FailedError("a descriptor with the bytes of the object", "other bytes")

    def play(self, step: Step) -> None:
        if step.kind in ("client", "client_raw"):
            self._send(step)
        elif step.kind == "client_data":
            self._wire.send_data(step.data)
        elif step.kind == "client_close":
            self._wire.close()
        elif step.kind == "server":
            self._expect(step)
        elif step.kind == "server_data":
            self._expect_data(step.data)
        elif step.kind == "server_close":
            self._expect_close()
        elif step.kind == "tamper":
            self._daemon.damage(objects()[step.name])
        else:
            raise SkippedError(f"a daemon cannot play {step.kind}")

    def _send(self, step: Step) -> None:
        wire = self._wire
        if step.kind == "client_raw":
            wire.halves.is_broken = True
            data = step.data
        else:
            data = wire.made(step.control)
        if step.fd is None:
            wire.send_bytes(data)
            return
        with tempfile.TemporaryFile() as file:
            file.write(step.fd)
            file.flush()
            try:
                wire.send_bytes(data, descriptors=(file.fileno(),))
            except PermissionError:
                # The kernel was told that the daemon takes no descriptors.
                wire.send_bytes(data)

    def _next(self) -> Frame | None:
        return self._kept.pop() if self._kept else self._wire.receive()

    def _expect(self, step: Step) -> None:
        frame = self._next()
        if isinstance(frame, dict) and "hello" in frame:
            self._require_features(frame)
        if isinstance(frame, dict) and step.fd is not None and frame.get("body") == "stream":
            self._expect_stream(step, frame)
        elif isinstance(frame, dict) and matches(step.control, frame):
            if step.fd is not None:
                self._descriptors.append((self._wire.take_descriptor(), step.fd))
        elif step.is_optional:
            self._kept.append(frame)
        else:
            raise FailedError(shown(step.control), shown(frame))

    def _expect_stream(self, step: Step, frame: Control) -> None:
        """Take a body that may come by descriptor and does not."""
        wanted = {**step.control, "body": "stream"}
        if not matches(wanted, frame):
            raise FailedError(shown(wanted), shown(frame))
        result = cast("dict[str, int]", frame["ok"])
        content = step.fd or b""
        self._expect_data(content[result["offset"] : result["offset"] + result["length"]])

    def _require_features(self, frame: Control) -> None:
        enabled = cast("list[str]", cast("Control", frame["hello"])["features"])
        missing = [name for name in self._features if name not in enabled]
        if missing:
            raise SkippedError(f"the daemon does not offer {', '.join(missing)}")

    def _expect_data(self, data: bytes) -> None:
        pieces: list[bytes] = []
        while isinstance(frame := self._next(), bytes):
            pieces.append(frame)
        received = b"".join(pieces)
        if received != data:
            raise FailedError(shown(data), shown(received))
        self._kept.append(frame)

    def _expect_close(self) -> None:
        if self._kept and (frame := self._kept.pop()) is not None:
            raise FailedError("the end of the connection", shown(frame))
        expect_closed(self._wire)
