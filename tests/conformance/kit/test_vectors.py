"""Vectors that a later version of the contract may bring."""

from typing import Any

import pytest

from dataplane_conformance import vectors
from dataplane_conformance.client import planning
from dataplane_conformance.vectors import VectorsError, conversations, example, frames, matches

HELLO = {"hello": {"version": 1, "features": []}}
ASK = {"op": "backend_health", "args": {}}
ANSWER = {"ok": {"backend_id": {"$any": "x"}, "state": "ok", "writable": True}}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have other documents read in place of the files."""

    def give(document: dict[str, Any]) -> None:
        whole = {"cases": [], "accept": [], "refuse": [], "either": [], **document}
        monkeypatch.setattr(vectors, "_load", lambda _: whole)

    return give


def _case(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "x", "section": "4", "connections": [list(steps)], **fields}


def test_unknown_keys_of_a_case_are_a_reason_to_skip_it(given: Any) -> None:
    given({"cases": [_case({"client": HELLO}, weather="fair")]})
    (conversation,) = conversations()
    assert "weather" in conversation.unknown


def test_unknown_steps_are_a_reason_to_skip_the_case(given: Any) -> None:
    given({"cases": [_case({"client": HELLO}, {"client_sings": "a song"})]})
    (conversation,) = conversations()
    assert "client_sings" in conversation.unknown


def test_unknown_keys_of_a_frame_are_a_reason_to_skip_it(given: Any) -> None:
    entry = {"name": "x", "section": "2", "frame": "00", "weather": "fair"}
    given({"refuse": [entry]})
    (vector,) = frames("refuse")
    assert "weather" in vector.unknown


def test_known_keys_are_read(given: Any) -> None:
    step = {"server": ANSWER, "optional": True, "fd": {"repeat": "6d", "count": 3}}
    given({"cases": [_case({"client": HELLO}, step, needs=["tamper"], rules=["4-1"])]})
    (conversation,) = conversations()
    assert (conversation.unknown, conversation.needs) == ("", ["tamper"])
    _, read = conversation.connections[0]
    assert (read.kind, read.is_optional, read.fd) == ("server", True, b"mmm")


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors.json, "loads", lambda _: {"format": 99, "protocol": 1})
    with pytest.raises(VectorsError, match="format"):
        vectors._load.__wrapped__("calls")


def test_patterns_match_as_subsets() -> None:
    assert matches(ANSWER, {"ok": {**example(ANSWER)["ok"], "later": 1}, "later": {}})
    assert not matches(ANSWER, {"ok": {"state": "ok", "writable": True}})
    assert not matches({"a": 1}, {"a": True})
    assert not matches({"a": [1]}, {"a": [1, 2]})
    assert not matches({"a": {}}, {"a": 1})


@pytest.mark.parametrize(
    "steps",
    [
        [{"client": HELLO}, {"server": HELLO}, {"client_raw": "00"}],
        [{"client": HELLO}, {"server": HELLO}, {"client": {"op": "sing", "args": {}}}],
        [{"client": HELLO}, {"server": HELLO}, {"client": {**ASK, "later": 1}}],
        [{"client": HELLO}, {"server": HELLO}, {"client": {**ASK, "body": "stream"}}],
        [{"client": {"hello": {"version": 2, "features": []}}}, {"server_close": True}],
        [{"client": HELLO}, {"server": HELLO}, {"client": ASK}, {"client_close": True}],
    ],
)
def test_what_no_client_can_be_brought_to_do_is_left_out(
    given: Any, steps: list[dict[str, Any]]
) -> None:
    given({"cases": [_case(*steps)]})
    (conversation,) = conversations()
    with pytest.raises(planning.UnplayableError):
        planning.plan(conversation)


def test_most_conversations_can_be_played_to_a_client() -> None:
    playable = 0
    for conversation in conversations():
        try:
            planning.plan(conversation)
        except planning.UnplayableError:
            continue
        playable += 1
    assert playable > 60
