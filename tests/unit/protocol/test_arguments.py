import pytest

from dataplane_protocol import (
    ARGUMENTS,
    MAX_BATCH,
    MAX_INTEGER,
    ContentAddress,
    DeleteArguments,
    HealthArguments,
    IngestArguments,
    InvalidRequestError,
    ListArguments,
    ListBackendsArguments,
    Operation,
    RangeNotSatisfiableError,
    ServeArguments,
    StatArguments,
    VerifyArguments,
)

TEXT = "blake3:" + "0f" * 32
OTHER = "sha256:" + "f0" * 32
ADDRESS, OTHER_ADDRESS = ContentAddress(TEXT), ContentAddress(OTHER)

ALL = [
    (IngestArguments(), {}),
    (
        IngestArguments(size_hint=0, primary_algorithm="sha256", backend_id="b"),
        {"size_hint": 0, "primary_algorithm": "sha256", "backend_id": "b"},
    ),
    (IngestArguments(size_hint=MAX_INTEGER), {"size_hint": MAX_INTEGER}),
    (ServeArguments(content_address=ADDRESS), {"content_address": TEXT}),
    (
        ServeArguments(content_address=ADDRESS, byte_range=(6, 9), backend_id="b"),
        {
            "content_address": TEXT,
            "byte_range": {"offset": 6, "length": 4},
            "backend_id": "b",
        },
    ),
    (
        ServeArguments(content_address=ADDRESS, byte_range=(0, 0)),
        {"content_address": TEXT, "byte_range": {"offset": 0, "length": 1}},
    ),
    (VerifyArguments(content_address=ADDRESS), {"content_address": TEXT}),
    (
        VerifyArguments(content_address=OTHER_ADDRESS, backend_id="b"),
        {"content_address": OTHER, "backend_id": "b"},
    ),
    (DeleteArguments(content_address=ADDRESS), {"content_address": TEXT}),
    (
        DeleteArguments(content_address=ADDRESS, backend_id="b", if_generation=0),
        {"content_address": TEXT, "backend_id": "b", "if_generation": 0},
    ),
    (HealthArguments(), {}),
    (HealthArguments(backend_id="b"), {"backend_id": "b"}),
    (StatArguments(content_addresses=(ADDRESS,)), {"content_addresses": [TEXT]}),
    (
        StatArguments(content_addresses=(ADDRESS, OTHER_ADDRESS, ADDRESS), backend_id="b"),
        {"content_addresses": [TEXT, OTHER, TEXT], "backend_id": "b"},
    ),
    (ListArguments(), {"limit": MAX_BATCH}),
    (
        ListArguments(after=ADDRESS, limit=1, backend_id="b"),
        {"after": TEXT, "limit": 1, "backend_id": "b"},
    ),
    (ListBackendsArguments(), {}),
]


@pytest.mark.parametrize(("arguments", "wire"), ALL, ids=str)
def test_arguments_have_one_spelling(arguments, wire):
    assert arguments.to_wire() == wire
    assert type(arguments).from_wire(wire) == arguments


@pytest.mark.parametrize(("arguments", "wire"), ALL, ids=str)
def test_unknown_keys_are_ignored(arguments, wire):
    assert type(arguments).from_wire({**wire, "later": None}) == arguments


@pytest.mark.parametrize(("arguments", "wire"), ALL, ids=str)
def test_a_known_key_of_the_wrong_type_is_a_bad_request(arguments, wire):
    for key, value in wire.items():
        for wrong in (None, 1.5, b"", "text", -1, True, [], [None], {}):
            if type(wrong) is type(value) and wrong not in ("text", -1, []):
                continue
            if isinstance(value, str) and wrong == "text" and ":" not in value:
                continue
            with pytest.raises(InvalidRequestError, match=f"args.{key}"):
                type(arguments).from_wire({**wire, key: wrong})


@pytest.mark.parametrize("kind", ARGUMENTS.values())
@pytest.mark.parametrize("args", [None, [], "text", 1])
def test_arguments_that_are_no_map_are_a_bad_request(kind, args):
    with pytest.raises(InvalidRequestError, match="args is not a map"):
        kind.from_wire(args)


@pytest.mark.parametrize(
    ("operation", "key"),
    [
        ("serve_object", "content_address"),
        ("verify_object", "content_address"),
        ("delete_object", "content_address"),
        ("stat_objects", "content_addresses"),
    ],
)
def test_a_missing_argument_is_a_bad_request(operation, key):
    with pytest.raises(InvalidRequestError, match=f"args.{key} is missing"):
        ARGUMENTS[operation].from_wire({})


def test_every_operation_has_its_arguments():
    assert list(ARGUMENTS) == [str(operation) for operation in Operation]
    for operation, kind in ARGUMENTS.items():
        assert operation == kind.OPERATION


@pytest.mark.parametrize(
    ("wire", "byte_range"),
    [
        ({"offset": 6}, (6, MAX_INTEGER)),
        ({"offset": 0, "length": MAX_INTEGER}, (0, MAX_INTEGER - 1)),
        ({"offset": 3, "length": 1}, (3, 3)),
    ],
)
def test_a_range_is_read_as_an_inclusive_one(wire, byte_range):
    arguments = ServeArguments.from_wire({"content_address": TEXT, "byte_range": wire})
    assert arguments.byte_range == byte_range


@pytest.mark.parametrize(
    "wire",
    [{}, {"length": 1}, {"offset": -1}, {"offset": 0, "length": 0}, {"offset": 0, "length": -1}],
)
def test_a_malformed_range_is_a_bad_request(wire):
    with pytest.raises(InvalidRequestError, match=r"args\.byte_range"):
        ServeArguments.from_wire({"content_address": TEXT, "byte_range": wire})


@pytest.mark.parametrize(
    ("byte_range", "wire"),
    [
        ((0, 2**80), {"offset": 0, "length": MAX_INTEGER}),
        ((2**80, 2**81), {"offset": MAX_INTEGER, "length": 1}),
        ((5, MAX_INTEGER), {"offset": 5, "length": MAX_INTEGER - 4}),
    ],
)
def test_a_range_beyond_the_largest_integer_is_clamped(byte_range, wire):
    arguments = ServeArguments(content_address=ADDRESS, byte_range=byte_range)
    assert arguments.to_wire()["byte_range"] == wire


@pytest.mark.parametrize("byte_range", [(3, 2), (-1, 2), (0, -1)])
def test_a_range_that_no_object_has_is_not_sent(byte_range):
    with pytest.raises(RangeNotSatisfiableError):
        ServeArguments(content_address=ADDRESS, byte_range=byte_range).to_wire()


@pytest.mark.parametrize(
    "arguments",
    [
        IngestArguments(size_hint=-1),
        IngestArguments(size_hint=MAX_INTEGER + 1),
        DeleteArguments(content_address=ADDRESS, if_generation=-1),
        ListArguments(limit=0),
        ListArguments(limit=MAX_BATCH + 1),
    ],
)
def test_a_number_out_of_bounds_is_not_sent(arguments):
    with pytest.raises(InvalidRequestError, match="must be from"):
        arguments.to_wire()


@pytest.mark.parametrize("limit", [0, MAX_BATCH + 1])
def test_a_limit_out_of_bounds_is_a_bad_request(limit):
    with pytest.raises(InvalidRequestError, match="from 1 to 128"):
        ListArguments.from_wire({"limit": limit})


def test_a_page_is_as_long_as_it_may_be_when_no_limit_is_given():
    assert ListArguments.from_wire({}) == ListArguments(limit=MAX_BATCH)


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_a_batch_out_of_bounds_is_a_bad_request(count):
    with pytest.raises(InvalidRequestError, match=f"has {count} entries, must have 1 to 128"):
        StatArguments.from_wire({"content_addresses": [TEXT] * count})


def test_a_full_batch_is_taken():
    wire = {"content_addresses": [TEXT] * MAX_BATCH}
    assert len(StatArguments.from_wire(wire).content_addresses) == MAX_BATCH


def test_an_address_of_another_algorithm_is_well_formed_here():
    arguments = VerifyArguments.from_wire({"content_address": "md5:" + "00" * 16})
    assert arguments.content_address.to_digest().algorithm == "md5"
