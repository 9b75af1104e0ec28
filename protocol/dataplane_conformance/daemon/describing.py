"""Verify, delete, health, stat and listings (`SPEC.md` 7.3 to 7.8)."""

from collections.abc import Iterator
from typing import Final, cast

from ..frames import Control
from ..verdicts import FailedError, Group
from ..wire import Wire
from .subject import Daemon, Ingested, check

GROUP: Final = Group[Daemon]()

MAX_BATCH: Final = 128


@GROUP.must("7.3")
def verify_by_both_names(daemon: Daemon) -> None:
    """A good object is verified, with its digests in the algorithm asked for."""
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    for address in (large.blake3, large.sha256):
        result = daemon.call(wire, "verify_object", content_address=address)
        wanted = {
            "content_address": address,
            "verified": True,
            "actual_primary_digest": address,
            "actual_sha256_digest": large.sha256,
            "actual_size_bytes": len(large.data),
        }
        got = {key: result[key] for key in wanted}
        check(got == wanted, f"{wanted}", got)


@GROUP.must("7.3")
def verify_of_a_missing_object(daemon: Daemon) -> None:
    """What is not there cannot be verified."""
    wire = daemon.greet()
    stored = daemon.ingest(wire, daemon.fresh())
    daemon.call(wire, "delete_object", content_address=stored.sha256)
    for name in (stored.address, stored.sha256, f"blake3:{'0' * 64}"):
        daemon.refused(wire, "verify_object", "not_found", content_address=name)


@GROUP.must("7.4")
def delete_is_true_once(daemon: Daemon) -> None:
    """The first delete says true, every other one false, by whichever name."""
    wire = daemon.greet()
    for field in ("address", "sha256"):
        stored = daemon.ingest(wire, daemon.fresh())
        names = [getattr(stored, field), stored.address, stored.sha256]
        deleted = [
            daemon.call(wire, "delete_object", content_address=name)["deleted"] for name in names
        ]
        check(deleted == [True, False, False], "true, then false", deleted)
        check(daemon.stat(wire, names) == [], "the object gone under both names", "an entry")


@GROUP.must("7.4")
def delete_says_what_was_asked(daemon: Daemon) -> None:
    """The result has the address as asked, and the backend."""
    wire = daemon.greet()
    backend = daemon.call(wire, "list_backends")["default"]
    stored = daemon.ingest(wire, daemon.fresh())
    for name in (stored.sha256, stored.address):
        result = daemon.call(wire, "delete_object", content_address=name)
        got = (result["content_address"], result["backend_id"])
        check(got == (name, backend), f"{name} of {backend}", got)


@GROUP.must("7.4")
def delete_if_a_generation_holds(daemon: Daemon) -> None:
    """With `if_generation` only that generation is deleted; another is a `conflict`."""
    wire = daemon.greet()
    data = daemon.fresh()
    old = daemon.ingest(wire, data)
    new = daemon.ingest(wire, data)
    name = new.address
    for generation in (old.generation, new.generation + 1, 0):
        error = daemon.refused(
            wire, "delete_object", "conflict", content_address=name, if_generation=generation
        )
        wanted = {"generation": new.generation}
        check(error.get("details") == wanted, f"details {wanted}", error)
    check(len(daemon.stat(wire, [name])) == 1, "the object still there", "nothing")
    result = daemon.call(
        wire, "delete_object", content_address=new.sha256, if_generation=new.generation
    )
    check(result["deleted"] is True, "deleted", result)
    again = daemon.call(wire, "delete_object", content_address=name, if_generation=new.generation)
    check(again["deleted"] is False, "false for what is gone", again)


@GROUP.must("7.5")
def health_of_every_backend(daemon: Daemon) -> None:
    """Each backend of `list_backends` can be asked for by its id, and the default by none."""
    wire = daemon.greet()
    listed = daemon.call(wire, "list_backends")
    backends = cast("list[Control]", listed["backends"])
    ids = [str(entry["backend_id"]) for entry in backends]
    check(len(set(ids)) == len(ids), "each backend once", ids)
    check(ids[:1] == [listed["default"]], f"the default {listed['default']} first", ids)
    for backend in ids:
        asked = daemon.call(wire, "backend_health", backend_id=backend)["backend_id"]
        check(asked == backend, backend, asked)
    default = daemon.call(wire, "backend_health")["backend_id"]
    check(default == listed["default"], str(listed["default"]), default)


@GROUP.must("7")
def unknown_backend_in_every_operation(daemon: Daemon) -> None:
    """An id that is not configured is `unknown_backend`."""
    wire = daemon.greet()
    name = daemon.ingest(wire, daemon.fresh()).address
    arguments: dict[str, Control] = {
        "serve_object": {"content_address": name},
        "verify_object": {"content_address": name},
        "delete_object": {"content_address": name},
        "backend_health": {},
        "stat_objects": {"content_addresses": [name]},
        "list_objects": {},
    }
    for op, args in arguments.items():
        for backend in ("no-such-backend", "", "../etc", "x" * 2000):
            daemon.refused(wire, op, "unknown_backend", **args, backend_id=backend)
    check(len(daemon.stat(wire, [name])) == 1, "the object still there", "nothing")


def _ingest_many(daemon: Daemon, wire: Wire, count: int) -> list[Ingested]:
    return [daemon.ingest(wire, daemon.fresh()) for _ in range(count)]


@GROUP.must("7.6")
def stat_of_a_full_batch(daemon: Daemon) -> None:
    """128 addresses are described in the order asked, those missing left out; 129 are refused."""
    wire = daemon.greet()
    stored = _ingest_many(daemon, wire, MAX_BATCH)
    stored.sort(key=lambda one: one.sha256)
    names = [one.address if index % 2 else one.sha256 for index, one in enumerate(stored)]
    got = [entry["content_address"] for entry in daemon.stat(wire, names)]
    wanted: list[object] = [one.address for one in stored]
    check(got == wanted, "128 entries in the order asked", f"{len(got)} or in another order")
    daemon.refused(
        wire, "stat_objects", "bad_request", content_addresses=[*names, stored[0].address]
    )
    for one in stored[::2]:
        daemon.call(wire, "delete_object", content_address=one.address)
    left = [entry["content_address"] for entry in daemon.stat(wire, names)]
    check(left == wanted[1::2], "those that are present", f"{len(left)} or in another order")


@GROUP.must("7.6")
def stat_of_the_same_address_twice(daemon: Daemon) -> None:
    """There is an entry for each address asked, also if two name the same object."""
    wire = daemon.greet()
    stored = daemon.ingest(wire, daemon.fresh())
    names = [stored.address, stored.sha256, f"blake3:{'0' * 64}", stored.address]
    got = [entry["content_address"] for entry in daemon.stat(wire, names)]
    check(got == [stored.address] * 3, "three entries", got)


@GROUP.must("7.6")
def stat_of_nothing(daemon: Daemon) -> None:
    """No address at all is `bad_request`, and one that is missing is no error."""
    wire = daemon.greet()
    daemon.refused(wire, "stat_objects", "bad_request", content_addresses=[])
    daemon.refused(wire, "stat_objects", "bad_request")
    entries = daemon.stat(wire, [f"sha256:{'0' * 64}"])
    check(entries == [], "no entry", entries)


def _walk(
    daemon: Daemon, wire: Wire, limit: int | None, after: str | None = None
) -> Iterator[list[Control]]:
    """Give the pages of a listing, each checked by itself."""
    last = after or ""
    while True:
        args: Control = {} if limit is None else {"limit": limit}
        if last:
            args["after"] = last
        result = daemon.call(wire, "list_objects", **args)
        page = cast("list[Control]", result["objects"])
        most = limit or MAX_BATCH
        check(len(page) <= most, f"a page of at most {most}", f"{len(page)} entries")
        check(bool(page) or not result["more"], "entries where more follow", "an empty page")
        for entry in page:
            name = str(entry["content_address"])
            check(name > last, f"an address above {last or 'none'}", name)
            last = name
        yield page
        if not result["more"]:
            return


@GROUP.must("7.7")
def walk_over_many_objects(daemon: Daemon) -> None:
    """A walk gives every object once and in order, whatever the size of its pages."""
    wire = daemon.greet()
    stored = _ingest_many(daemon, wire, MAX_BATCH + 3)
    wanted = sorted(one.address for one in stored)
    for limit in (None, 1, 7, MAX_BATCH - 1, MAX_BATCH):
        # A walk over a store that is in use need not be a walk over all of it.
        seen: list[str] = []
        for page in _walk(daemon, wire, limit, after=_before(wanted[0])):
            seen += [str(entry["content_address"]) for entry in page]
            if seen and seen[-1] >= wanted[-1]:
                break
        got = [name for name in seen if name in set(wanted)]
        if got != wanted:
            raise FailedError(f"{len(wanted)} objects once", f"{len(got)} in pages of {limit}")


def _before(address: str) -> str:
    """Give an address just below one, which no object is likely to have."""
    algorithm, _, digits = address.partition(":")
    below = max(int(digits, 16) - 1, 0)
    return f"{algorithm}:{below:064x}"


@GROUP.must("7.7")
def more_tells_whether_entries_follow(daemon: Daemon) -> None:
    """`more` is false on the last page also if the page is full."""
    daemon.require_empty()
    wire = daemon.greet()
    stored = _ingest_many(daemon, wire, 3)
    for limit, wanted in ((1, True), (2, True), (3, False), (4, False), (MAX_BATCH, False)):
        result = daemon.call(wire, "list_objects", limit=limit)
        check(result["more"] is wanted, f"more {wanted} on a page of {limit} of 3", result["more"])
    last = max(one.address for one in stored)
    result = daemon.call(wire, "list_objects", after=last)
    got = (result["objects"], result["more"])
    check(got == ([], False), "an empty last page", got)


@GROUP.must("7.7")
def walk_on_after_a_deleted_object(daemon: Daemon) -> None:
    """`after` need not be there, so that a walk survives the end of its last entry."""
    wire = daemon.greet()
    stored = _ingest_many(daemon, wire, 4)
    first, second, *_ = sorted(one.address for one in stored)
    daemon.call(wire, "delete_object", content_address=first)
    result = daemon.call(wire, "list_objects", after=first, limit=1)
    page = cast("list[Control]", result["objects"])
    names = [str(entry["content_address"]) for entry in page]
    check(len(names) == 1 and first < names[0] <= second, f"{second} or one before", names)


@GROUP.must("7.7")
def entries_of_a_page_are_those_of_stat(daemon: Daemon) -> None:
    """Both describe an object in the same way."""
    wire = daemon.greet()
    stored = daemon.ingest(wire, daemon.fresh())
    result = daemon.call(wire, "list_objects", after=_before(stored.address), limit=1)
    check(
        result["objects"] == daemon.stat(wire, [stored.sha256]),
        "the entry of stat_objects",
        result["objects"],
    )


@GROUP.must("7.7")
def limits_and_cursors_that_are_refused(daemon: Daemon) -> None:
    """A limit is from 1 to 128, and a cursor is a BLAKE3 address."""
    wire = daemon.greet()
    for limit in (0, 129, -1, "1", True, None):
        daemon.refused(wire, "list_objects", "bad_request", limit=limit)
    for after in (f"sha256:{'0' * 64}", "blake3:", "", 0, None):
        daemon.refused(wire, "list_objects", "bad_request", after=after)
