"""An object store as this backend uses it: a handful of requests, bounded, with typed errors.

obstore speaks to the engine; it runs on asyncio, over a bridge. What it raises is turned into
errors of the contract here, once. None of them carries the engine's own text, which may quote
credentials or signatures: no more than its error code goes further.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

import obstore
import structlog
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from dataplane_protocol import DataPlaneError, NoSpaceError, UnavailableError

from ...config import ConfigurationError, ObjectStoreConfig
from ..base import BackendError
from .bridge import Bridge, Call
from .circuit import Circuit

if TYPE_CHECKING:
    from obstore import ObjectMeta

T = TypeVar("T")

#: Seconds between two attempts, at first and at most. Each is multiplied by a random number
#: from 0.5 to 1, so that those who failed together do not come back together.
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0

#: Keys that engines give in one page.
_PAGE: Final = 1000

_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_KIND: Final = re.compile(r"kind: (Connect|Timeout|Interrupted|Request|Decode|Unknown)\b")

#: What engines answer when they are full, when a range begins behind the end, and when the
#: bucket itself is not there.
_FULL: Final = frozenset({"507", "QuotaExceeded", "InsufficientStorage"})
_PAST_END: Final = frozenset({"416"})
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})

#: Answers below 500 that ask to come again: too slow, too early, too many, or something has
#: happened to the body on its way.
_AGAIN: Final = frozenset({"408", "425", "429", "RequestTimeout", "IncompleteBody"}) | {
    "BadDigest",
    "XAmzContentSHA256Mismatch",
}

_MISSING: Final = "the bucket does not exist"

_log = structlog.get_logger(__name__)


class NoSuchKeyError(Exception):
    """Nothing is under the key."""


class KeyExistsError(Exception):
    """What should have been created is there."""


class _ShortAnswerError(Exception):
    """The engine gave fewer bytes than it had to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key in the bucket, without the prefix that the configuration gives.

    Attributes:
        key: The key.
        size: Bytes under it.
        e_tag: The engine's entity tag, without quotes.
    """

    key: str
    size: int
    e_tag: str | None


class Engine:
    """A bucket, or what is under a prefix in one.

    A request that fails is made again until `retry_timeout_s` is over, unless the engine has
    said that this makes no sense; then it raises `UnavailableError`. So does every request at
    once while the engine is left alone, after failures in a row. All of them may be cancelled,
    and end at the engine's end too.
    """

    def __init__(self, backend_id: str, config: ObjectStoreConfig) -> None:
        self.backend_id = backend_id
        self.circuit = Circuit(time.monotonic)
        #: Whether the engine refuses a body whose SHA-256 is not the one that was signed, so
        #: that what it has stored is what was sent.
        self.signs_bodies = config.url.startswith("s3") and not (
            any(name.endswith("unsigned_payload") for name in config.options)
            or "AWS_UNSIGNED_PAYLOAD" in os.environ
        )
        self._config = config

    def open(self) -> None:
        """Make ready for requests, without making one.

        Raises:
            BackendError: The engine's client can make nothing of the configuration.
        """
        config = self._config
        options: dict[str, Any] = dict(config.options)
        for name, source in config.credentials.items():
            try:
                options[name] = source.read()
            except ConfigurationError as exc:
                raise BackendError(f"credentials.{name}: {exc}") from exc
        if config.endpoint is not None:
            options["endpoint"] = config.endpoint
        if config.region is not None:
            options["region"] = config.region
        try:
            self._store = from_url(
                config.url,
                client_options={
                    "timeout": timedelta(seconds=config.request_timeout_s),
                    "connect_timeout": timedelta(seconds=config.connect_timeout_s),
                    "allow_http": (config.endpoint or "").startswith("http://"),
                },
                retry_config={"max_retries": 0},
                **options,
            )
        except Exception as exc:  # noqa: BLE001 - whatever it raises, said without its words
            # Not its text, which may quote the value of an option.
            raise BackendError(
                f"object store {config.url}: its client says {type(exc).__name__}: check url, "
                "endpoint, region, the names of options and credentials"
            ) from None
        self._bridge = Bridge(f"engine-{self.backend_id}")

    async def aclose(self) -> None:
        """End every request."""
        await self._bridge.aclose()

    async def put(self, key: str, data: bytes) -> str | None:
        """Store bytes under a key, in one request, whatever was there.

        Returns:
            The entity tag that the engine gave them, without quotes.
        """
        return await self._start("put", lambda: self._put(key, data, "overwrite")).result()

    async def create(self, key: str, data: bytes) -> None:
        """Do what `put` does if nothing is there. Not every engine looks.

        Raises:
            KeyExistsError: Something is there.
        """
        await self._start("create", lambda: self._put(key, data, "create")).result()

    async def get(self, key: str) -> bytes:
        """Give the bytes under a key.

        Raises:
            NoSuchKeyError: There are none.
        """
        return await self._start("get", lambda: self._get(key)).result()

    def start_get_range(self, key: str, start: int, length: int) -> "Request[memoryview]":
        """Begin to fetch some of the bytes under a key; none is missing from the result.

        The result raises `NoSuchKeyError` when there is nothing under the key, or less.
        """
        return self._start("get", lambda: self._get_range(key, start, length))

    async def head(self, key: str) -> Entry:
        """Describe a key.

        Raises:
            NoSuchKeyError: There is none.
        """
        return await self._start("head", lambda: self._head(key)).result()

    async def list_all(self, folder: str) -> list[Entry]:
        """Give every key in a folder, in order."""
        return await self._start("list", lambda: self._list(folder, None, None)).result()

    async def list_some(self, folder: str, after: str | None) -> list[Entry]:
        """Give the first thousand or so keys in a folder that come after a key; at the end none."""
        return await self._start("list", lambda: self._list(folder, after, _PAGE)).result()

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove keys, in no order. Those that are not there are removed as well."""
        if keys:
            await self._start("delete", lambda: self._delete(keys)).result()

    def _start(self, operation: str, function: Callable[[], Awaitable[T]]) -> "Request[T]":
        if not self.circuit.lets_through():
            raise UnavailableError(
                f"object store is left alone after failures, the last one: {self.circuit.reason}"
            )
        call = self._bridge.start(lambda: self._persist(function), self._config.retry_timeout_s)
        return Request(self, operation, call)

    async def _persist(self, function: Callable[[], Awaitable[T]]) -> T:
        """Try again until the caller has had enough. Runs over there, as all below."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._config.retry_timeout_s
        delay = _FIRST_DELAY
        while True:
            try:
                return await function()
            except (BaseError, _ShortAnswerError) as exc:
                if not _is_transient(exc) or clock() + delay >= deadline:
                    raise
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _put(self, key: str, data: bytes, mode: Literal["overwrite", "create"]) -> str | None:
        result = await obstore.put_async(self._store, key, data, mode=mode, use_multipart=False)
        return _plain(result["e_tag"])

    async def _get(self, key: str) -> bytes:
        result = await obstore.get_async(self._store, key)
        return bytes(_whole(memoryview(await result.bytes_async()), result.meta["size"]))

    async def _get_range(self, key: str, start: int, length: int) -> memoryview:
        end = start + length
        result = await obstore.get_async(self._store, key, options={"range": (start, end)})
        if result.meta["size"] < end:
            raise FileNotFoundError
        return _whole(memoryview(await result.bytes_async()), length)

    async def _head(self, key: str) -> Entry:
        meta = await obstore.head_async(self._store, key)
        return Entry(key, meta["size"], _plain(meta["e_tag"]))

    async def _list(self, folder: str, after: str | None, limit: int | None) -> list[Entry]:
        # One of its overloads gives a type of a library that is not needed.
        stream = cast("Any", obstore).list(self._store, folder, offset=after, chunk_size=_PAGE)
        entries: list[Entry] = []
        async for metas in cast("AsyncIterator[Sequence[ObjectMeta]]", stream):
            entries += (
                Entry(meta["path"], meta["size"], _plain(meta["e_tag"]))
                for meta in metas
                # Azurite begins where it likes.
                if after is None or meta["path"] > after
            )
            if limit is not None and len(entries) >= limit:
                break
        # Engines list in order; the stores of obstore that are none do not.
        return sorted(entries, key=lambda entry: entry.key)

    async def _delete(self, keys: Sequence[str]) -> None:
        try:
            await obstore.delete_async(self._store, list(keys))
        except FileNotFoundError as exc:
            if _NO_BUCKET & _words(exc):
                raise
            # Some engines look, and leave those alone that come after one that is not there.
            if len(keys) > 1:
                for key in keys:
                    await self._delete([key])


class Request(Generic[T]):
    """A request under way. Whoever made it asks for its result, or cancels it."""

    def __init__(self, engine: Engine, operation: str, call: Call[T]) -> None:
        self._engine = engine
        self._operation = operation
        self._call = call

    async def result(self) -> T:
        """Wait for it.

        Raises:
            NoSuchKeyError, KeyExistsError: As the request says.
            NoSpaceError: The engine is full.
            UnavailableError: It did not answer in time, or not as it should.
        """
        circuit = self._engine.circuit
        try:
            result = await self._call.result()
        except FileNotFoundError as exc:
            if not _NO_BUCKET & _words(exc):
                circuit.note_success()
                raise NoSuchKeyError from None
            raise self._failure(_MISSING) from None
        except AlreadyExistsError:
            circuit.note_success()
            raise KeyExistsError from None
        except (BaseError, _ShortAnswerError, TimeoutError) as exc:
            words = _words(exc)
            if words & _PAST_END:
                circuit.note_success()
                raise NoSuchKeyError from None
            if words & _FULL:
                circuit.note_success()
                raise NoSpaceError("object store is full") from None
            raise self._failure(_reason(exc, words)) from None
        circuit.note_success()
        return result

    def cancel(self) -> None:
        """Let it go. Does nothing once it has ended."""
        self._call.cancel()

    def _failure(self, reason: str) -> DataPlaneError:
        self._engine.circuit.note_failure(reason)
        _log.warning(
            "engine_failed",
            backend=self._engine.backend_id,
            operation=self._operation,
            reason=reason,
        )
        return UnavailableError(f"object store: {reason}")


def _is_transient(exc: Exception) -> bool:
    if isinstance(exc, PermissionDeniedError | UnauthenticatedError | AlreadyExistsError):
        return False
    words = _words(exc)
    status = next((word for word in words if word.isdigit()), None)
    return bool(words & _AGAIN) or status is None or (status[0] == "5" and status != "507")


def _words(exc: BaseException) -> frozenset[str]:
    """Give the error code and the status in what the engine said."""
    text = str(exc)
    return frozenset(found[1] for found in (_CODE.search(text), _STATUS.search(text)) if found)


def _reason(exc: BaseException, words: frozenset[str]) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, PermissionDeniedError | UnauthenticatedError) or "403" in words:
        return f"it refuses the daemon's credentials ({', '.join(sorted(words))})"
    if words & _NO_BUCKET:
        return _MISSING
    if isinstance(exc, _ShortAnswerError):
        return "fewer bytes than there are"
    if words:
        return f"it answers {', '.join(sorted(words, reverse=True))}"
    kind = _KIND.search(str(exc))
    return {
        "Connect": "no connection",
        "Timeout": "no answer in time",
        "Interrupted": "connection broken off",
        "Request": "connection broken off",
    }.get(kind[1] if kind else "", "no sensible answer")


def _whole(data: memoryview, size: int) -> memoryview:
    if len(data) != size:
        raise _ShortAnswerError
    return data


def _plain(e_tag: object) -> str | None:
    return cast("str", e_tag).strip('"') if e_tag else None
