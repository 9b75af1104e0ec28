"""The conversations of `calls.json`, played as the server to a client."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, cast

from ..frames import Control
from ..vectors import Conversation, Step, conversations, example, objects
from ..verdicts import Case, FailedError, Level, SkippedError, case_id, shown
from ..wire import Wire
from .planning import Exchange, Greeting, UnplayableError, Wanted, plan
from .subject import HEALTH, HEALTHY, Client, NoRequestError, Session, hear_hello, require_op

_FEATURE: Final = "feature:"
_COMPUTES: Final = "computes:"

#: What a client may say although it is the default.
_DEFAULTS: Final[Mapping[str, object]] = {"limit": 128, "primary_algorithm": "blake3"}


def cases() -> Iterator[Case[Client]]:
    """Give a case for each conversation that a proper client can be brought to have."""
    for conversation in conversations():
        try:
            connections = [] if conversation.unknown else plan(conversation)
        except UnplayableError:
            continue
        if not any(one.exchanges for one in connections) and _is_polite(connections):
            continue
        repeats = any(one.is_repeated for two in connections for one in two.exchanges)
        yield Case(
            case_id=case_id(conversation.section, conversation.name),
            title=f"The client plays its part of calls.json: {conversation.name}.",
            level=Level.SHOULD if repeats else Level.MUST,
            play=_player(conversation, connections),
        )


def _is_polite(connections: list[Greeting]) -> bool:
    return all(_is_usual(connection) for connection in connections)


def _is_usual(greeting: Greeting) -> bool:
    """Whether a server says hello in good order, with nothing odd in it."""
    if greeting.is_closing or len(greeting.steps) != 1 or greeting.steps[0].kind != "server":
        return False
    hello = cast("Control", example(greeting.steps[0].control)).get("hello")
    if not isinstance(hello, dict):
        return False
    fields = cast("Control", hello)
    return fields["version"] == 1 and fields["features"] in ([], ["serve_fd"])


def _player(conversation: Conversation, connections: list[Greeting]) -> Callable[[Client], None]:
    def play(client: Client) -> None:
        if conversation.unknown:
            raise SkippedError(conversation.unknown)
        features = _features(client, conversation.needs)
        exchanges = [one for connection in connections for one in connection.exchanges]
        calls = [one.to_call() for one in exchanges if not one.is_repeated]
        # One call more shows whether a connection is used that must not be.
        with client.session(*calls, HEALTH, features=features) as session:
            server = _Server(session, features)
            for connection in connections:
                server.play(connection)
            server.end(is_asked=not exchanges and not _is_polite(connections))

    return play


def _features(client: Client, needs: Sequence[str]) -> list[str]:
    """Give the features that are needed, or skip for want of something else."""
    for need in needs:
        algorithm = need.removeprefix(_COMPUTES)
        if need.startswith(_COMPUTES) and algorithm not in client.computes:
            raise SkippedError(f"needs a client with --computes {algorithm}")
    return [need.removeprefix(_FEATURE) for need in needs if need.startswith(_FEATURE)]


class _Server:
    """The server's side of one conversation."""

    def __init__(self, session: Session, features: list[str]) -> None:
        self._session = session
        self._features = features
        self._greeting: Greeting | None = None

    def play(self, greeting: Greeting) -> None:
        if not _is_usual(greeting):
            self._greet_oddly(greeting)
        for exchange in greeting.exchanges:
            try:
                self._play(exchange)
            except NoRequestError:
                # It found out by itself, which is right if its verdict is.
                if exchange.wanted is not Wanted.ERROR:
                    raise
                self._judge(exchange)

    def end(self, *, is_asked: bool) -> None:
        """Take the outcome that shows an odd greeting, and answer the last call."""
        greeting = self._greeting
        if is_asked and greeting is not None:
            self._judge_odd(greeting)
            return
        wire, request = self._session.request()
        require_op(request, HEALTH.op)
        wire.send({"ok": HEALTHY})
        self._session.expect_ok(HEALTH.op, HEALTHY)

    def _judge_odd(self, greeting: Greeting) -> None:
        said = [example(step.control) for step in greeting.steps if step.kind == "server"]
        errors = [frame["error"] for frame in said if "error" in frame]
        if errors:
            self._session.expect_error(errors[0]["code"], retry=errors[0].get("retry", False))
        elif any("hello" in frame for frame in said):
            self._session.expect_error("unsupported", retry=False)
        else:
            self._session.expect_error("protocol", retry=False)

    def _greet_oddly(self, greeting: Greeting) -> None:
        self._greeting = greeting
        wire = self._session.accept()
        if not greeting.is_server_first:
            hear_hello(wire)
        for step in greeting.steps:
            self._do(wire, step)
        if greeting.is_closing:
            self._session.spoil(wire)

    def _play(self, exchange: Exchange) -> None:
        wire, request = self._session.request()
        self._require_features(wire)
        _check_request(exchange, request)
        if exchange.body is not None and not exchange.is_refused_early:
            self._take_body(wire, exchange)
        for step in exchange.steps:
            self._do(wire, step)
        if exchange.is_refused_early:
            _take_refused_body(wire)
        if exchange.is_closing:
            self._session.spoil(wire)
        self._judge(exchange)

    def _require_features(self, wire: Wire) -> None:
        missing = [name for name in self._features if name not in wire.offered]
        if missing:
            raise SkippedError(f"the client does not offer {', '.join(missing)}")

    def _take_body(self, wire: Wire, exchange: Exchange) -> None:
        pieces: list[bytes] = []
        while isinstance(frame := wire.receive(), bytes):
            pieces.append(frame)
        if not isinstance(frame, dict) or "end" not in frame:
            raise FailedError("data, then end", shown(frame))
        if b"".join(pieces) != exchange.body:
            raise FailedError(shown(exchange.body), shown(b"".join(pieces)))
        digest = cast("Control", frame["end"]).get("digest", "")
        if exchange.digest and digest != exchange.digest:
            raise FailedError(f"end with digest {exchange.digest}", shown(frame))

    def _do(self, wire: Wire, step: Step) -> None:
        if step.kind == "server_close":
            wire.close()
            return
        if step.kind == "server_data":
            for start in range(0, len(step.data), 100_000):
                wire.send_data(step.data[start : start + 100_000])
            return
        if step.kind == "server_raw":
            wire.halves.is_broken = True
            data = step.data
        else:
            data = wire.made(cast("Control", example(step.control)))
        if step.fd is None:
            wire.send_bytes(data)
            return
        with tempfile.TemporaryFile() as file:
            file.write(step.fd)
            file.flush()
            with open(f"/proc/self/fd/{file.fileno()}", "rb") as copy:
                wire.send_bytes(data, descriptors=(copy.fileno(),))

    def _judge(self, exchange: Exchange) -> None:
        """Take the outcome of an exchange, if it has one of its own."""
        session = self._session
        error = cast("Control", _answer(exchange).get("error", {}))
        if exchange.wanted is Wanted.OK:
            session.expect_ok(exchange.op, _result(exchange))
        elif exchange.wanted is Wanted.ERROR:
            session.expect_error(str(error["code"]), retry=bool(error.get("retry", False)))
        elif exchange.wanted is Wanted.VIOLATION:
            session.expect_error("protocol", retry=False)
        elif exchange.wanted is Wanted.FAILURE:
            session.expect_error()
        elif exchange.wanted is Wanted.EITHER:
            session.outcome()
        elif not exchange.is_tried_again:
            session.expect_error(retry=True)


def _check_request(exchange: Exchange, request: Control) -> None:
    wanted = exchange.request
    args = cast("Control", request["args"])
    same = request["op"] == wanted["op"] and request.get("body") == wanted.get("body")
    extra = {key: value for key, value in args.items() if key not in exchange.args}
    same = same and all(_DEFAULTS.get(key) == value for key, value in extra.items())
    for key, value in exchange.args.items():
        got = args.get(key)
        if key == "byte_range":
            size = _size_of(exchange)
            same = same and _span(got, size) == _span(value, size)
        else:
            same = same and got == value
    if not same:
        raise FailedError(shown(wanted), shown(request))
    has_descriptor = any(step.fd is not None for step in exchange.steps)
    if has_descriptor and request.get("accept_fd") != wanted.get("accept_fd"):
        raise SkippedError("the client decides otherwise whether it accepts a descriptor")


def _size_of(exchange: Exchange) -> int:
    address = exchange.args.get("content_address")
    sizes = [len(one.data) for one in objects().values() if address in (one.blake3, one.sha256)]
    return sizes[0] if sizes else 2**53


def _span(byte_range: object, size: int) -> tuple[int, int] | None:
    """Give the bytes that a range means, however it says so."""
    if not isinstance(byte_range, dict):
        return None
    fields = cast("dict[str, int]", byte_range)
    return fields["offset"], min(fields["offset"] + fields.get("length", 2**53), size)


def _take_refused_body(wire: Wire) -> None:
    while isinstance(frame := wire.receive(), bytes):
        pass
    if frame is not None and not set(frame) & {"end", "error"}:
        raise FailedError("the end of the body, or an error in its place", shown(frame))


def _answer(exchange: Exchange) -> Control:
    """Give the last control frame that the server says."""
    said = [step for step in exchange.steps if step.kind == "server"]
    return cast("Control", example(said[-1].control)) if said else {}


def _result(exchange: Exchange) -> Control:
    """Give what the adapter has to tell of a call that succeeds."""
    result = dict(cast("Control", example(exchange.steps[0].control)["ok"]))
    if exchange.op != "serve_object":
        return result
    offset, length = cast("int", result["offset"]), cast("int", result["length"])
    body = b"".join(
        step.data if step.fd is None else step.fd[offset : offset + length]
        for step in exchange.steps
    )
    return {**result, "body_digest": f"sha256:{hashlib.sha256(body).hexdigest()}"}
