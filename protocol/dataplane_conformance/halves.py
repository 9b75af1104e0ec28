"""The two half-machines as `SPEC.md` 5.1 and 5.2 draw them, to judge the order of frames."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Side: TypeAlias = Literal["client", "server"]
State: TypeAlias = Literal["hello", "ready", "body", "descriptor", "done", "closed"]

#: (half, state, frame) to the next state. A frame that announces a body has `+` and the kind
#: of the body behind it.
_TABLE: Final[Mapping[tuple[Side, State, str], State]] = {
    ("client", "hello", "hello"): "ready",
    ("client", "ready", "op"): "done",
    ("client", "ready", "op+stream"): "body",
    ("client", "ready", "op+fd"): "descriptor",
    ("client", "body", "data"): "body",
    ("client", "body", "end"): "done",
    ("client", "body", "error"): "done",
    ("client", "descriptor", "end"): "done",
    ("client", "descriptor", "error"): "done",
    ("server", "hello", "hello"): "ready",
    ("server", "hello", "error"): "closed",
    ("server", "ready", "ok"): "done",
    ("server", "ready", "ok+stream"): "body",
    ("server", "ready", "ok+fd"): "descriptor",
    ("server", "ready", "error"): "done",
    ("server", "body", "data"): "body",
    ("server", "body", "end"): "done",
    ("server", "body", "error"): "done",
    ("server", "descriptor", "end"): "done",
    ("server", "descriptor", "error"): "done",
}


def other(side: Side) -> Side:
    """Give the peer of a side."""
    return "server" if side == "client" else "client"


class Halves:
    """Both halves of a connection. `is_broken` once somebody took a step that is not there."""

    def __init__(self) -> None:
        self.states: dict[Side, State] = {"client": "hello", "server": "hello"}
        self.is_broken = False

    @property
    def are_ready(self) -> bool:
        """Whether no call is open."""
        return set(self.states.values()) == {"ready"}

    def step(self, side: Side, name: str, *, breaks_off: bool = False) -> str | None:
        """Take a step and give `None`, or say why it may not be taken."""
        state = self.states[side]
        if breaks_off and state != "closed":
            self._close()
            return None
        following = _TABLE.get((side, state, name))
        if following is None or not self._is_allowed(side, name):
            self.is_broken = True
            return (
                f"{name} from the {side} while its half is {state} and the other "
                f"half is {self.states[other(side)]}"
            )
        self.states[side] = following
        if following == "closed":
            self._close()
        elif set(self.states.values()) == {"done"}:
            self.states = {"client": "ready", "server": "ready"}
        return None

    def _is_allowed(self, side: Side, name: str) -> bool:
        client, server = self.states["client"], self.states["server"]
        if side == "client":
            return server == "ready" or not name.startswith("op")
        if name == "hello":
            return client == "ready"
        if name.startswith("ok"):
            return client == "done"
        return name != "error" or client != "ready" or server == "hello"

    def _close(self) -> None:
        self.states = {"client": "closed", "server": "closed"}
