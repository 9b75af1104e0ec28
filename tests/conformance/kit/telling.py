"""What both adapters share: arguments out of a request, and outcomes into JSON."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from dataplane_protocol import (
    MAX_BATCH,
    ContentAddress,
    DataPlaneError,
    Digest,
    IngestHints,
)

MAX_INTEGER = 2**53 - 1


class SourceError(Exception):
    """The body of an ingest failed, as the kit wanted it to."""


def pieces(call: dict[str, Any]) -> Iterator[bytes]:
    """Give the body of an ingest, up to where it has to fail."""
    left = call.get("fail_after")
    with open(call["body"], "rb") as file:
        while piece := file.read(65_536 if left is None else min(left, 65_536)):
            yield piece
            left = None if left is None else left - len(piece)
    if left is not None:
        raise SourceError


def hints(call: dict[str, Any]) -> IngestHints:
    return IngestHints(**call["args"])


def digest(call: dict[str, Any]) -> Digest | None:
    return Digest.parse(call["digest"]) if "digest" in call else None


def address(call: dict[str, Any]) -> ContentAddress:
    return ContentAddress(call["args"]["content_address"])


def serve_options(call: dict[str, Any]) -> dict[str, Any]:
    options = {"backend_id": call["args"].get("backend_id")}
    if "byte_range" in call["args"]:
        given = call["args"]["byte_range"]
        last = min(given["offset"] + given.get("length", MAX_INTEGER) - 1, MAX_INTEGER)
        options["byte_range"] = (given["offset"], last)
    return options


def list_options(call: dict[str, Any]) -> dict[str, Any]:
    args = call["args"]
    return {
        "after": ContentAddress(args["after"]) if "after" in args else None,
        "page_size": args.get("limit", MAX_BATCH),
        "backend_id": args.get("backend_id"),
    }


def tell_ok(result: dict[str, Any]) -> None:
    _print({"ok": result})


def tell_error(error: Exception, received: int) -> None:
    if isinstance(error, SourceError):
        told: dict[str, Any] = {"code": "source", "retry": False}
    elif isinstance(error, DataPlaneError):
        told = {"code": error.code, "retry": error.retry, "message": error.message}
    else:
        raise error
    _print({"error": told, "received_bytes": received})


def request() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sys.argv[-1])
    return document


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)
