import dataclasses
import inspect
from datetime import UTC, datetime

import cbor2
import pytest

import dataplane_protocol
from dataplane_protocol import (
    BackendList,
    BackendState,
    BackendStatus,
    ContentAddress,
    DataPlane,
    DeletionResult,
    Digest,
    FullDataPlane,
    IngestHints,
    IngestOutcome,
    IngestResult,
    ObjectPage,
    ObjectState,
    ObjectStatus,
    ObjectStream,
    StorageReceipt,
    VerifyResult,
)

DIGEST = Digest("blake3", "0f" * 32)
SHA256 = Digest("sha256", "f0" * 32)
ADDRESS = ContentAddress.from_digest(DIGEST)
MOMENT = datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)
RECEIPT = StorageReceipt("b", ADDRESS, 12, IngestOutcome.CREATED, 1, MOMENT)
STATUS = BackendStatus("b", BackendState.OK, writable=True, free_bytes=1, message="why")
OBJECT = ObjectStatus(ADDRESS, 12, SHA256, 1, MOMENT, MOMENT, ObjectState.QUARANTINED)

VALUES = [
    DIGEST,
    ADDRESS,
    IngestHints(),
    IngestHints(12, "sha256", "b"),
    RECEIPT,
    IngestResult(DIGEST, SHA256, 12, RECEIPT),
    VerifyResult(ADDRESS, False, DIGEST, SHA256, 11, "size differs"),
    DeletionResult(ADDRESS, "b", deleted=True),
    STATUS,
    OBJECT,
    ObjectPage((OBJECT,), more=False),
    BackendList((STATUS,), "b"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_of_the_spi_can_be_written_as_cbor(value):
    plain = dataclasses.asdict(value)
    assert cbor2.loads(cbor2.dumps(plain)) == listed(plain)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_of_the_spi_is_frozen_and_hashable(value):
    assert hash(value) == hash(dataclasses.replace(value))
    assert not hasattr(value, "__dict__")
    with pytest.raises(AttributeError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_hints_are_positional_as_control_planes_write_them():
    assert IngestHints(1, "blake3", "b") == IngestHints(
        size_hint=1, primary_algorithm="blake3", backend_id="b"
    )


class Plane:
    async def ingest_stream(self, stream, *, hints=None): ...

    async def serve_object(self, content_address, *, byte_range=None, backend_id=None): ...

    async def verify_object(self, content_address, *, backend_id=None): ...

    async def delete_object(self, content_address, *, backend_id=None): ...

    async def backend_health(self): ...


class FullPlane(Plane):
    async def stat_objects(self, content_addresses, *, backend_id=None): ...

    def list_objects(self, *, after=None, page_size=128, backend_id=None): ...

    async def list_backends(self): ...


class Stream:
    size = offset = length = 0

    def __aiter__(self): ...

    async def __anext__(self): ...

    async def aclose(self): ...

    async def __aenter__(self): ...

    async def __aexit__(self, exc_type, exc, traceback): ...


def test_planes_and_streams_are_known_by_their_methods():
    assert isinstance(Plane(), DataPlane)
    assert not isinstance(Plane(), FullDataPlane)
    assert isinstance(FullPlane(), DataPlane)
    assert isinstance(FullPlane(), FullDataPlane)
    assert isinstance(Stream(), ObjectStream)
    for protocol in (DataPlane, FullDataPlane, ObjectStream):
        assert not isinstance(object(), protocol)


def test_the_surface_for_control_planes_has_their_names_and_signatures():
    signatures = {
        name: [
            (parameter.name, parameter.kind.name, parameter.default)
            for parameter in inspect.signature(getattr(DataPlane, name)).parameters.values()
        ][1:]
        for name in sorted(vars(DataPlane))
        if not name.startswith("_")
    }
    required, keyword = inspect.Parameter.empty, "KEYWORD_ONLY"
    address = ("content_address", "POSITIONAL_OR_KEYWORD", required)
    backend = ("backend_id", keyword, None)
    assert signatures == {
        "backend_health": [],
        "delete_object": [address, backend],
        "ingest_stream": [
            ("stream", "POSITIONAL_OR_KEYWORD", required),
            ("hints", keyword, None),
        ],
        "serve_object": [address, ("byte_range", keyword, None), backend],
        "verify_object": [address, backend],
    }


def test_what_the_wire_adds_leaves_every_call_of_a_control_plane_valid():
    for name in vars(DataPlane):
        if name.startswith("_"):
            continue
        narrow = inspect.signature(getattr(DataPlane, name)).parameters
        wide = inspect.signature(getattr(FullDataPlane, name)).parameters
        assert list(narrow) == [parameter for parameter in wide if parameter in narrow]
        for parameter in set(wide) - set(narrow):
            assert wide[parameter].default is None


def test_every_public_name_is_that_of_its_own_definition():
    public = {name for name in vars(dataplane_protocol) if not name.startswith("_")}
    assert {"DataPlane", "IngestHints", "IngestResult", "VerifyResult"} <= public
    for name in public:
        value = getattr(dataplane_protocol, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__name__ == name
    assert dataplane_protocol.__version__


def listed(value):
    """Give a value with lists in place of tuples, as CBOR reads it back."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return list(map(listed, value)) if isinstance(value, tuple | list) else value
