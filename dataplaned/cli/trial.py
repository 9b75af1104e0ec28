"""The steps of a self-test: what a data plane must do, done to one through the client.

A trial leaves a store as it found it. What it may delete is decided before each ingest: a
sample of fresh random bytes is its own; any other is only if the receipt says `created`, and
then only while it still has that generation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from dataplane_protocol import (
    BLAKE3,
    MAX_BATCH,
    BodyMismatchError,
    ConflictError,
    ContentAddress,
    DataPlaneError,
    Digest,
    IngestHints,
    IngestOutcome,
    ObjectNotFoundError,
)

from .exits import explain
from .samples import BLOCK_SIZE, Sample, edge_samples, random_sample

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient
    from dataplane_protocol import IngestResult, ObjectStatus

_EDGE_REACH: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How one step went.

    Attributes:
        name: What was done.
        subject: To what.
        size_bytes: Bytes that went through the socket, or were verified.
        seconds: How long it took.
        failure: Why it failed; `None` when it did not.
    """

    name: str
    subject: str
    size_bytes: int | None
    seconds: float
    failure: str | None


class _MismatchError(Exception):
    """The data plane answered, and wrongly."""


class Trial:
    """One run over a data plane; `report` is told of each step as it ends."""

    def __init__(
        self,
        client: "BlockingDataPlaneClient",
        report: Callable[[Step], None],
        *,
        backend_id: str | None = None,
    ) -> None:
        self._client = client
        self._report = report
        self._backend_id = backend_id
        # What is still to be deleted, and under which condition.
        self._ours: dict[Sample, int | None] = {}

    def run(self, main: Sample) -> None:
        """Run all steps. A failed one ends what depends on it, and the others go on."""
        try:
            if self._step("health", "backend", self._check_health):
                self._main_journey(main)
                for sample in edge_samples():
                    self._edge_journey(sample)
                refused = random_sample("wrong digest", BLOCK_SIZE)
                self._step("refuse", refused.title, partial(self._refuse, refused))
                for sample in tuple(self._ours):
                    self._step("delete", sample.title, partial(self._delete, sample))
        finally:
            self._clean_up()

    def _main_journey(self, sample: Sample) -> None:
        steps: dict[str, Callable[[Sample], int | None]] = {
            "ingest": self._ingest,
            "serve": self._serve,
            "range": self._serve_range,
            "sha256": self._serve_by_sha256,
            "stat": self._stat,
            "verify": self._verify,
            "list": self._list,
        }
        for name, action in steps.items():
            done = self._step(name, sample.title, partial(action, sample))
            if not done and name == "ingest":
                return

    def _edge_journey(self, sample: Sample) -> None:
        def there_and_back() -> int:
            self._ingest(sample)
            self._stat(sample)
            self._verify(sample)
            return self._serve(sample)

        self._step("edge", sample.title, there_and_back)

    def _step(self, name: str, subject: str, action: Callable[[], int | None]) -> bool:
        size, failure = None, None
        started = perf_counter()
        try:
            size = action()
        except (_MismatchError, DataPlaneError, OSError) as error:
            failure = explain(error)
        seconds = perf_counter() - started
        self._report(
            Step(name=name, subject=subject, size_bytes=size, seconds=seconds, failure=failure)
        )
        return failure is None

    def _check_health(self) -> None:
        status = self._client.backend_health(backend_id=self._backend_id)
        _require(status.writable, f"{status.backend_id} is {status.state} and not writable")

    def _ingest(self, sample: Sample) -> int:
        if sample.is_own:
            # Before the bytes leave: the answer may be lost, and the object stored.
            self._ours[sample] = None
        result = self._client.ingest_stream(sample.pieces(), hints=self._hints(sample))
        receipt = result.receipt
        if not sample.is_own and receipt.outcome == IngestOutcome.CREATED:
            self._ours[sample] = receipt.generation
        _check_ingest(result, sample)
        return sample.size_bytes

    def _serve(self, sample: Sample) -> int:
        return self._compare(sample, sample.blake3)

    def _serve_by_sha256(self, sample: Sample) -> int:
        return self._compare(sample, sample.sha256)

    def _compare(self, sample: Sample, address: ContentAddress) -> int:
        with self._client.serve_object(address, backend_id=self._backend_id) as served:
            _require(served.size == sample.size_bytes, f"served with a size of {served.size}")
            expected = sample.pieces()
            ahead = b""
            for piece in served:
                while len(ahead) < len(piece) and (more := next(expected, b"")):
                    ahead += more
                _require(ahead.startswith(piece), "served bytes differ")
                ahead = ahead[len(piece) :]
            _require(not ahead and next(expected, None) is None, "served bytes end early")
        return sample.size_bytes

    def _serve_range(self, sample: Sample) -> int:
        byte_range = _over_an_edge(sample.size_bytes)
        if byte_range is None:
            return 0
        with self._client.serve_object(
            sample.blake3, byte_range=byte_range, backend_id=self._backend_id
        ) as served:
            found = b"".join(served)
        _require(found == sample.read(*byte_range), "served range differs")
        return len(found)

    def _stat(self, sample: Sample) -> None:
        both = (sample.blake3, sample.sha256)
        found = self._client.stat_objects(both, backend_id=self._backend_id)
        _require(len(found) == len(both), f"stat finds {len(found)} of both names")
        for status in found:
            _check_status(status, sample)

    def _verify(self, sample: Sample) -> int:
        result = self._client.verify_object(sample.blake3, backend_id=self._backend_id)
        _require(result.verified, result.mismatch or "not verified")
        _require(str(result.actual_sha256_digest) == str(sample.sha256), "sha256 differs")
        return sample.size_bytes

    def _list(self, sample: Sample) -> None:
        # From just before it, as a running daemon may hold millions.
        pages = self._client.list_objects(
            after=_predecessor(sample.blake3), page_size=MAX_BATCH, backend_id=self._backend_id
        )
        for page in pages:
            for status in page:
                _require(status.content_address == sample.blake3, "not in the listing")
                return _check_status(status, sample)
        raise _MismatchError("not in the listing")

    def _refuse(self, sample: Sample) -> None:
        self._ours[sample] = None
        wrong = random_sample("", sample.size_bytes).blake3.to_digest()
        try:
            self._client.ingest_stream(
                sample.pieces(), hints=self._hints(sample), expected_digest=wrong
            )
        except BodyMismatchError:
            self._require_gone(sample)
            del self._ours[sample]
        else:
            raise _MismatchError("stored under another digest than the expected one")

    def _delete(self, sample: Sample) -> None:
        generation = self._ours.pop(sample)
        try:
            if not self._delete_once(sample.blake3, generation):
                raise _MismatchError("was not there to be deleted")
            self._require_gone(sample)
            if self._delete_once(sample.sha256, generation):
                raise _MismatchError("could be deleted twice")
        except ConflictError:
            # Someone else has ingested the same bytes meanwhile: the object is theirs now.
            return

    def _delete_once(self, address: ContentAddress, generation: int | None) -> bool:
        return self._client.delete_object(
            address, backend_id=self._backend_id, if_generation=generation
        ).deleted

    def _require_gone(self, sample: Sample) -> None:
        both = (sample.blake3, sample.sha256)
        found = self._client.stat_objects(both, backend_id=self._backend_id)
        _require(not found, "still there")
        try:
            self._client.serve_object(sample.blake3, backend_id=self._backend_id).close()
        except ObjectNotFoundError:
            return
        raise _MismatchError("still served")

    def _clean_up(self) -> None:
        """Delete what failed steps have left; whatever remains is told as a failed step."""
        for sample, generation in self._ours.items():
            started = perf_counter()
            try:
                self._delete_once(sample.blake3, generation)
            except ConflictError:
                continue
            except DataPlaneError as error:
                self._report(
                    Step(
                        name="clean up",
                        subject=str(sample.blake3),
                        size_bytes=None,
                        seconds=perf_counter() - started,
                        failure=explain(error),
                    )
                )

    def _hints(self, sample: Sample) -> IngestHints:
        return IngestHints(size_hint=sample.size_bytes, backend_id=self._backend_id)


def _require(is_right: bool, otherwise: str) -> None:
    if not is_right:
        raise _MismatchError(otherwise)


def _check_ingest(result: "IngestResult", sample: Sample) -> None:
    _require(str(result.primary_digest) == str(sample.blake3), "blake3 digest differs")
    _require(str(result.sha256_digest) == str(sample.sha256), "sha256 digest differs")
    _require(result.size_bytes == sample.size_bytes, f"stored {result.size_bytes} bytes")


def _check_status(status: "ObjectStatus", sample: Sample) -> None:
    _require(status.is_named(sample.blake3), "blake3 name differs")
    _require(status.is_named(sample.sha256), "sha256 name differs")
    _require(status.size_bytes == sample.size_bytes, f"size is {status.size_bytes}")


def _over_an_edge(size: int) -> tuple[int, int] | None:
    """Give a range with a block edge inside, or what there is of one; `None` if empty."""
    if size == 0:
        return None
    edge = min(BLOCK_SIZE, size)
    return max(edge - _EDGE_REACH, 0), min(edge + _EDGE_REACH, size) - 1


def _predecessor(address: ContentAddress) -> ContentAddress | None:
    digest = address.to_digest()
    number = int(digest.hex, 16)
    if number == 0:
        return None
    return ContentAddress.from_digest(Digest(BLAKE3, f"{number - 1:0{len(digest.hex)}x}"))
