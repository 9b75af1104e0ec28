import math
from datetime import UTC, datetime

import pytest

from dataplane_protocol import (
    MAX_CONTROL_SIZE,
    MAX_INTEGER,
    ContentAddress,
    InvalidRequestError,
    Ok,
    RemoteProtocolError,
    encode_frame,
)
from dataplaned.backends.maintenance import QuarantinedCopy, ScrubState, ScrubStatus
from dataplaned.operations import (
    MAX_PAGE,
    BackendArguments,
    Backup,
    CopyArguments,
    MaintenanceOperation,
    Purge,
    QuarantineListArguments,
    QuarantinePage,
    Restoration,
    scrub_status_from_wire,
    scrub_status_to_wire,
)

ADDRESS = ContentAddress("blake3:" + "5a" * 32)
MOMENT = datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)


def copy(number, reason="content differs"):
    return QuarantinedCopy(
        number=number,
        content_address=ADDRESS,
        size_bytes=MAX_INTEGER,
        reason=reason,
        found_at=MOMENT,
        is_only_copy=True,
    )


def status(**more):
    values = {
        "backend_id": "b",
        "state": ScrubState.RUNNING,
        "due_objects": 1,
        "due_bytes": 2,
        "rate": 3,
        "oldest_verification": MOMENT,
        "verified_objects": 4,
        "verified_bytes": 5,
        "rotten_objects": 6,
        "quarantined": 7,
    }
    return ScrubStatus(**{**values, **more})


def test_every_name_is_one_of_this_daemons_own():
    assert all(name.startswith("dataplaned.") for name in MaintenanceOperation)


@pytest.mark.parametrize(
    "arguments",
    [
        BackendArguments(),
        BackendArguments(backend_id="b"),
        QuarantineListArguments(),
        QuarantineListArguments(after=7, limit=1, backend_id="b"),
        CopyArguments(number=1),
        CopyArguments(number=MAX_INTEGER, backend_id="b"),
    ],
)
def test_arguments_come_back_as_they_were(arguments):
    wire = arguments.to_wire()
    assert type(arguments).from_wire({**wire, "later": [1]}) == arguments


def test_a_list_begins_at_the_start_with_a_full_page():
    assert QuarantineListArguments.from_wire({}) == QuarantineListArguments(after=0, limit=MAX_PAGE)


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (BackendArguments, {"backend_id": 1}, "args.backend_id must be text"),
        (BackendArguments, {"backend_id": None}, "args.backend_id must be text"),
        (QuarantineListArguments, {"limit": 0}, "args.limit must be an integer from 1 to 100"),
        (QuarantineListArguments, {"limit": 101}, "args.limit must be an integer from 1 to 100"),
        (QuarantineListArguments, {"limit": True}, "args.limit must be an integer"),
        (QuarantineListArguments, {"after": -1}, "args.after must be an integer from 0 to"),
        (QuarantineListArguments, {"after": "1"}, "args.after must be an integer from 0 to"),
        (QuarantineListArguments, {"backend_id": []}, "args.backend_id must be text"),
        (CopyArguments, {}, "args.number is missing"),
        (CopyArguments, {"number": 0}, "args.number must be an integer from 1 to"),
        (CopyArguments, {"number": MAX_INTEGER + 1}, "args.number must be an integer from 1 to"),
        (CopyArguments, {"number": math.inf}, "args.number must be an integer from 1 to"),
        (CopyArguments, {"number": 1, "backend_id": b"b"}, "args.backend_id must be text"),
    ],
)
def test_arguments_that_are_wrong_say_what_they_must_be(kind, args, message):
    with pytest.raises(InvalidRequestError, match=message):
        kind.from_wire(args)


@pytest.mark.parametrize("oldest", [None, MOMENT])
def test_a_scrub_comes_back_as_it_was(oldest):
    given = status(oldest_verification=oldest)
    assert scrub_status_from_wire(scrub_status_to_wire(given)) == given


def test_a_state_of_a_later_daemon_is_passed_on():
    wire = {**scrub_status_to_wire(status()), "state": "resting"}
    assert scrub_status_from_wire(wire).state == "resting"


@pytest.mark.parametrize(
    "result",
    [
        QuarantinePage(copies=(), more=False),
        QuarantinePage(copies=(copy(1), copy(2)), more=True),
        Restoration(number=1, content_address=ADDRESS, mismatch=None),
        Restoration(number=1, content_address=ADDRESS, mismatch="content differs"),
        Purge(number=1, content_address=ADDRESS, was_only_copy=True),
        Backup(backend_id="b", path="/grün/backup"),
    ],
)
def test_results_come_back_as_they_were(result):
    assert type(result).from_wire({**result.to_wire(), "later": 1}) == result


@pytest.mark.parametrize("kind", [QuarantinePage, Restoration, Purge, Backup])
def test_results_that_are_wrong_are_violations(kind):
    with pytest.raises(RemoteProtocolError, match="is missing"):
        kind.from_wire({})
    with pytest.raises(RemoteProtocolError, match="is missing"):
        scrub_status_from_wire({})


def test_the_largest_page_fits_its_frame_with_room_to_spare():
    copies = tuple(copy(MAX_INTEGER, reason="\U0001f4a5" * 1000) for _ in range(MAX_PAGE))
    frame = encode_frame(Ok(result=QuarantinePage(copies=copies, more=True).to_wire()).to_wire())
    assert len(frame) < MAX_CONTROL_SIZE - 4000


def test_a_long_mismatch_is_cut():
    long = Restoration(number=1, content_address=ADDRESS, mismatch="x" * 100_000)
    assert len(str(long.to_wire()["mismatch"])) == 100


def test_a_path_that_is_no_text_becomes_text():
    assert Backup(backend_id="b", path="/\udcff").to_wire()["path"] == r"/\xff"
