from datetime import UTC, datetime

import pytest

from dataplane_protocol import (
    BackendState,
    BackendStatus,
    ContentAddress,
    IngestOutcome,
    ObjectPage,
    ObjectState,
    ObjectStatus,
)

B3 = ContentAddress("blake3:" + "0f" * 32)
S2 = ContentAddress("sha256:" + "f0" * 32)
OBJECT = ObjectStatus(
    content_address=B3,
    size_bytes=12,
    sha256_digest=S2.to_digest(),
    generation=1,
    stored_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def test_an_object_has_two_names():
    assert OBJECT.is_named(B3)
    assert OBJECT.is_named(S2)
    assert not OBJECT.is_named(ContentAddress("blake3:" + "f0" * 32))
    assert not OBJECT.is_named(ContentAddress("sha256:" + "0f" * 32))


def test_an_object_is_ok_and_not_verified_unless_said():
    assert (OBJECT.state, OBJECT.verified_at) == ("ok", None)


@pytest.mark.parametrize("state", [*BackendState, "sleeping"])
def test_a_backend_is_healthy_when_its_state_is_ok(state):
    status = BackendStatus(backend_id="b", state=state, writable=True)
    assert status.healthy == (state == "ok")


def test_a_page_is_a_collection_of_its_objects():
    page = ObjectPage(objects=(OBJECT,), more=True)
    assert list(page) == [OBJECT]
    assert len(page) == 1
    assert not ObjectPage(objects=(), more=False)


def test_words_are_their_texts():
    assert [str(word) for word in IngestOutcome] == ["created", "existed", "healed"]
    assert [str(word) for word in BackendState] == ["ok", "degraded", "down"]
    assert [str(word) for word in ObjectState] == ["ok", "quarantined"]
    assert IngestOutcome.CREATED == "created"
