"""A daemon with a store on disk and a bucket as one backend: outages, rot, and catching up."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane_protocol import UnavailableError

from ..engines.proxy import Proxy
from .caller import HUGE, LARGE, SMALL, Caller, address_of, content

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """The daemon, and what is between it and the bucket."""

    daemon: Any
    proxy: Proxy
    caller: Caller
    root: Path

    def has_caught_up(self) -> bool:
        # What went wrong is told for a minute more.
        return bool(self.daemon.becomes(lambda: "behind" not in str(self.caller.health().message)))

    def damage(self) -> None:
        """Change a byte in the middle of every file of the store on disk."""
        for path in (self.root / "objects").rglob("*.*"):
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes([byte ^ 1]))


@pytest.fixture
def open_place(
    ceph: Callable[[], Any],
    ceph_process: Any,
    start_daemon: Callable[..., Any],
    tmp_path: Path,
) -> Generator[Callable[[str], Place]]:
    with contextlib.ExitStack() as stack:

        def open_it(acknowledge: str) -> Place:
            proxy = stack.enter_context(contextlib.closing(Proxy(ceph_process.port)))
            bucket = ceph().toml(
                tmp_path,
                "m.second",
                endpoint=proxy.endpoint,
                part_size=1 << 20,
                request_timeout_s=1.0,
                retry_timeout_s=2.0,
            )
            config = tmp_path / "dp.toml"
            config.write_text(
                f"""
                [backend.m]
                type = "mirror"
                acknowledge = "{acknowledge}"
                journal = "{tmp_path}/journal"
                [backend.m.first]
                type = "filesystem"
                root = "{tmp_path}/store"
                min_free_bytes = 0
                """
                + bucket
            )
            daemon = start_daemon(["--config", str(config)])
            caller = stack.enter_context(Caller(daemon))
            for size in (SMALL, LARGE, HUGE):
                caller.ingest(content(size, "before"))
            place = Place(daemon, proxy, caller, tmp_path / "store")
            if acknowledge == "first":
                assert daemon.becomes(lambda: len(daemon.events("caught_up")) == 3)
            return place

        yield open_it


def test_a_bucket_that_was_away_catches_up_after_a_restart(
    open_place: Callable[[str], Place],
) -> None:
    place = open_place("first")
    place.proxy.refuse()
    for number in range(5):
        place.caller.ingest(content(LARGE, number))
    place.caller.delete(content(SMALL, "before"))
    place.caller.delete(content(HUGE, "before"))
    place.caller.check_reads()
    assert place.daemon.becomes(lambda: "behind" in str(place.caller.health().message))
    health = place.caller.health()
    assert (health.state, health.writable) == ("degraded", True)
    assert "second is 7 objects behind since" in health.message
    place.daemon.kill()
    place.daemon.start()
    place.caller.check_reads()
    place.proxy.pass_on()
    assert place.has_caught_up()
    # What the bucket has, it can give alone.
    place.damage()
    place.caller.check()
    assert place.has_caught_up()


def test_an_ingest_waits_for_both_if_both_are_wanted(open_place: Callable[[str], Place]) -> None:
    place = open_place("both")
    place.proxy.refuse()
    error = place.caller.failure(place.caller.ingest, content(LARGE, "refused"))
    assert isinstance(error, UnavailableError)
    assert error.retry
    assert not place.caller.health().writable
    place.caller.check_reads()
    place.proxy.pass_on()
    assert place.daemon.becomes(lambda: place.caller.health().writable)
    place.caller.ingest(content(LARGE, "refused"))
    place.caller.check()


def test_rot_on_disk_is_healed_from_the_bucket_in_mid_body(
    open_place: Callable[[str], Place],
) -> None:
    place = open_place("both")
    place.damage()
    place.caller.check_reads()
    assert place.has_caught_up()
    assert len(place.daemon.events("healed")) == 2
    place.proxy.refuse()
    assert place.caller.read(address_of(content(HUGE, "before"))) == content(HUGE, "before")


def test_a_store_that_was_lost_is_served_by_the_bucket_and_comes_back(
    open_place: Callable[[str], Place],
) -> None:
    place = open_place("both")
    place.daemon.kill()
    for path in sorted(place.root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.root.rmdir()
    place.daemon.start()
    for data in place.caller.stored.values():
        assert place.caller.read(address_of(data)) == data
    assert place.has_caught_up()
    place.proxy.refuse()
    for data in place.caller.stored.values():
        assert place.caller.read(address_of(data)) == data
