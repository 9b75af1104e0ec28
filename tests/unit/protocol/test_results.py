import copy
from datetime import UTC, datetime

import pytest

from dataplane_protocol import (
    MAX_BATCH,
    MAX_CONTROL_SIZE,
    MAX_INTEGER,
    BackendList,
    BackendState,
    BackendStatus,
    ContentAddress,
    DeletionResult,
    IngestOutcome,
    IngestResult,
    ObjectPage,
    ObjectState,
    ObjectStatus,
    Ok,
    RemoteProtocolError,
    ServeResult,
    StorageReceipt,
    VerifyResult,
    backend_list_from_wire,
    backend_list_to_wire,
    backend_status_from_wire,
    backend_status_to_wire,
    deletion_result_from_wire,
    deletion_result_to_wire,
    encode_frame,
    ingest_result_from_wire,
    ingest_result_to_wire,
    object_page_from_wire,
    object_page_to_wire,
    stat_result_from_wire,
    stat_result_to_wire,
    verify_result_from_wire,
    verify_result_to_wire,
)

B3, S2 = "blake3:" + "0f" * 32, "sha256:" + "f0" * 32
ADDRESS = ContentAddress(B3)
SHA256 = ContentAddress(S2).to_digest()
MS = 1_790_000_000_123
MOMENT = datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)

OBJECT = ObjectStatus(
    content_address=ADDRESS, size_bytes=12, sha256_digest=SHA256, generation=1, stored_at=MOMENT
)
FULL_OBJECT = ObjectStatus(
    content_address=ADDRESS,
    size_bytes=MAX_INTEGER,
    sha256_digest=SHA256,
    generation=MAX_INTEGER,
    stored_at=MOMENT,
    verified_at=MOMENT,
    state=ObjectState.QUARANTINED,
)
OBJECT_WIRE = {
    "content_address": B3,
    "size_bytes": 12,
    "sha256_digest": S2,
    "generation": 1,
    "stored_at_ms": MS,
}
FULL_OBJECT_WIRE = {
    **OBJECT_WIRE,
    "size_bytes": MAX_INTEGER,
    "generation": MAX_INTEGER,
    "verified_at_ms": MS,
    "state": "quarantined",
}
STATUS = BackendStatus(backend_id="b", state=BackendState.OK, writable=True)
FULL_STATUS = BackendStatus(
    backend_id="b",
    state=BackendState.DOWN,
    writable=False,
    free_bytes=0,
    total_bytes=1,
    object_count=2,
    message="why",
)
STATUS_WIRE = {"backend_id": "b", "state": "ok", "writable": True}
FULL_STATUS_WIRE = {
    "backend_id": "b",
    "state": "down",
    "writable": False,
    "free_bytes": 0,
    "total_bytes": 1,
    "object_count": 2,
    "message": "why",
}

#: Name: the value, its map, the two functions, and the keys that may be absent.
RESULTS = {
    "ingest": (
        IngestResult(
            primary_digest=ADDRESS.to_digest(),
            sha256_digest=SHA256,
            size_bytes=12,
            receipt=StorageReceipt(
                backend_id="b",
                content_address=ADDRESS,
                size_bytes=12,
                outcome=IngestOutcome.CREATED,
                generation=1,
                stored_at=MOMENT,
            ),
        ),
        {
            "primary_digest": B3,
            "sha256_digest": S2,
            "size_bytes": 12,
            "receipt": {
                "backend_id": "b",
                "outcome": "created",
                "generation": 1,
                "stored_at_ms": MS,
            },
        },
        ingest_result_to_wire,
        ingest_result_from_wire,
    ),
    "serve": (
        ServeResult(size_bytes=12, offset=6, length=6),
        {"size_bytes": 12, "offset": 6, "length": 6},
        ServeResult.to_wire,
        ServeResult.from_wire,
    ),
    "verify": (
        VerifyResult(ADDRESS, True, ADDRESS.to_digest(), SHA256, 12),
        {
            "content_address": B3,
            "verified": True,
            "actual_primary_digest": B3,
            "actual_sha256_digest": S2,
            "actual_size_bytes": 12,
        },
        verify_result_to_wire,
        verify_result_from_wire,
    ),
    "verify mismatch": (
        VerifyResult(ADDRESS, False, ADDRESS.to_digest(), SHA256, 11, "size differs"),
        {
            "content_address": B3,
            "verified": False,
            "actual_primary_digest": B3,
            "actual_sha256_digest": S2,
            "actual_size_bytes": 11,
            "mismatch": "size differs",
        },
        verify_result_to_wire,
        verify_result_from_wire,
    ),
    "delete": (
        DeletionResult(ADDRESS, "b", deleted=True),
        {"content_address": B3, "backend_id": "b", "deleted": True},
        deletion_result_to_wire,
        deletion_result_from_wire,
    ),
    "health": (STATUS, STATUS_WIRE, backend_status_to_wire, backend_status_from_wire),
    "full health": (
        FULL_STATUS,
        FULL_STATUS_WIRE,
        backend_status_to_wire,
        backend_status_from_wire,
    ),
    "backends": (
        BackendList(backends=(STATUS, FULL_STATUS), default="b"),
        {"backends": [STATUS_WIRE, FULL_STATUS_WIRE], "default": "b"},
        backend_list_to_wire,
        backend_list_from_wire,
    ),
    "stat": (
        (OBJECT, FULL_OBJECT),
        {"objects": [OBJECT_WIRE, FULL_OBJECT_WIRE]},
        stat_result_to_wire,
        stat_result_from_wire,
    ),
    "page": (
        ObjectPage(objects=(OBJECT,), more=True),
        {"objects": [OBJECT_WIRE], "more": True},
        object_page_to_wire,
        object_page_from_wire,
    ),
    "empty page": (
        ObjectPage(objects=(), more=False),
        {"objects": [], "more": False},
        object_page_to_wire,
        object_page_from_wire,
    ),
}
OPTIONAL = {
    "mismatch",
    "free_bytes",
    "total_bytes",
    "object_count",
    "message",
    "verified_at_ms",
    "state of an object",
}


def keys_within(value, path=()):
    """Give the path of each map in a value, and each of its keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield path, key
            yield from keys_within(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from keys_within(item, (*path, index))


def changed(wire, path, key, value=None):
    wire = copy.deepcopy(wire)
    target = wire
    for step in path:
        target = target[step]
    if value is None:
        del target[key]
    else:
        target[key] = value[0]
    return wire


@pytest.mark.parametrize(("value", "wire", "to_wire", "from_wire"), RESULTS.values(), ids=RESULTS)
class TestResults:
    def test_a_result_has_one_spelling(self, value, wire, to_wire, from_wire):
        assert to_wire(value) == wire
        assert from_wire(wire) == value

    def test_unknown_keys_are_ignored(self, value, wire, to_wire, from_wire):
        for path in {path for path, _ in keys_within(wire)}:
            assert from_wire(changed(wire, path, "later", [None])) == value

    def test_a_required_key_cannot_be_left_out(self, value, wire, to_wire, from_wire):
        for path, key in keys_within(wire):
            name = f"{key} of an object" if key == "state" and "objects" in path else key
            if name in OPTIONAL:
                from_wire(changed(wire, path, key))
            else:
                with pytest.raises(RemoteProtocolError, match=f"{key} is missing"):
                    from_wire(changed(wire, path, key))

    def test_a_known_key_cannot_have_another_type(self, value, wire, to_wire, from_wire):
        for path, key in keys_within(wire):
            target = wire
            for step in (*path, key):
                target = target[step]
            for wrong in (None, 1.5, b"", 1, True, "text", [], {}):
                if type(wrong) is not type(target):
                    with pytest.raises(RemoteProtocolError):
                        from_wire(changed(wire, path, key, [wrong]))

    def test_what_is_no_map_is_refused(self, value, wire, to_wire, from_wire):
        with pytest.raises(RemoteProtocolError, match="ok is not a map"):
            from_wire([])

    def test_a_result_can_be_encoded(self, value, wire, to_wire, from_wire):
        assert encode_frame(Ok(result=to_wire(value)).to_wire())


@pytest.mark.parametrize(("offset", "length"), [(13, 0), (12, 1), (6, 7), (0, 13)])
def test_a_served_body_lies_within_its_object(offset, length):
    with pytest.raises(RemoteProtocolError):
        ServeResult.from_wire({"size_bytes": 12, "offset": offset, "length": length})


def test_an_empty_object_has_an_empty_body():
    assert ServeResult.from_wire({"size_bytes": 0, "offset": 0, "length": 0}).length == 0


def test_words_of_later_versions_are_passed_on():
    status = backend_status_from_wire({**STATUS_WIRE, "state": "sleeping"})
    assert (status.state, status.healthy) == ("sleeping", False)
    assert backend_status_to_wire(status)["state"] == "sleeping"
    (entry,) = stat_result_from_wire({"objects": [{**OBJECT_WIRE, "state": "frozen"}]})
    assert entry.state == "frozen"
    _, wire, _, from_wire = RESULTS["ingest"]
    assert from_wire(changed(wire, ("receipt",), "outcome", ["moved"])).receipt.outcome == "moved"


def test_an_explicit_ok_reads_as_an_absent_state():
    (entry,) = stat_result_from_wire({"objects": [{**OBJECT_WIRE, "state": "ok"}]})
    assert entry == OBJECT
    assert "state" not in stat_result_to_wire([entry])["objects"][0]


def test_there_are_at_most_as_many_objects_as_a_batch_has():
    wire = {"objects": [OBJECT_WIRE] * (MAX_BATCH + 1), "more": False}
    for from_wire in (stat_result_from_wire, object_page_from_wire):
        with pytest.raises(RemoteProtocolError, match="129 entries, limit is 128"):
            from_wire(wire)


def test_there_are_at_most_128_backends():
    assert backend_list_from_wire({"backends": [STATUS_WIRE] * 128, "default": "b"})
    with pytest.raises(RemoteProtocolError, match="129 entries, limit is 128"):
        backend_list_from_wire({"backends": [STATUS_WIRE] * 129, "default": "b"})


def test_a_full_page_leaves_room_in_a_control_frame():
    # `SPEC.md` 9 gives the figures: 281 bytes for an entry, 29 KB left.
    page = ObjectPage(objects=(FULL_OBJECT,) * MAX_BATCH, more=True)
    frame = encode_frame(Ok(result=object_page_to_wire(page)).to_wire())
    smaller = ObjectPage(objects=(FULL_OBJECT,) * (MAX_BATCH - 1), more=True)
    assert len(frame) - len(encode_frame(Ok(result=object_page_to_wire(smaller)).to_wire())) <= 281
    assert MAX_CONTROL_SIZE - len(frame) >= 29_000


def test_a_receipt_names_the_object_by_its_primary_digest():
    value, wire, _, from_wire = RESULTS["ingest"]
    by_sha256 = from_wire(changed(wire, (), "primary_digest", [S2]))
    assert by_sha256.receipt.content_address == ContentAddress(S2)
    assert value.receipt.content_address == ADDRESS
