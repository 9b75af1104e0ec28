"""A control plane in small: objects over HTTP, by FastAPI and the client on asyncio.

`uvicorn --app-dir tests/interop web_app:app`, with the daemon's socket in `DATAPLANED_SOCKET`. What
stands between the two marks is in `client/README.md` too.
"""

# The README's part begins.
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dataplane_client import ServedObject, connect
from dataplane_protocol import ContentAddress, DataPlaneError, Digest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

client = connect(os.environ["DATAPLANED_SOCKET"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.put("/objects", status_code=201)
async def upload(request: Request, expected: str | None = None) -> dict[str, str]:
    digest = None if expected is None else Digest.parse(expected)
    result = await client.ingest_stream(request.stream(), expected_digest=digest)
    return {"address": str(result.primary_digest), "outcome": result.receipt.outcome}


class ObjectResponse(StreamingResponse):
    """Sends an object or a range of it, and lets it go at the end, however that comes about."""

    def __init__(self, address: str, served: ServedObject, *, is_range: bool) -> None:
        headers = {"content-length": str(served.length), "etag": f'"{address}"'}
        if is_range:
            last = served.offset + served.length - 1
            headers["content-range"] = f"bytes {served.offset}-{last}/{served.size}"
        super().__init__(served, 206 if is_range else 200, headers, "application/octet-stream")
        self.served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.served:
            await super().__call__(scope, receive, send)


@app.get("/objects/{address}")
async def download(address: str, request: Request) -> Response:
    asked = re.fullmatch(r"bytes=(\d{1,15})-(\d{0,15})", request.headers.get("range", ""))
    wanted = None if asked is None else (int(asked[1]), int(asked[2] or 10**15))
    served = await client.serve_object(ContentAddress(address), byte_range=wanted)
    return ObjectResponse(address, served, is_range=wanted is not None)


# The README's part ends.


STATUS = {
    "bad_request": 400,
    "unsupported": 400,
    "denied": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "out_of_range": 416,
    "body_mismatch": 422,
    "unavailable": 503,
    "no_space": 507,
}


@app.exception_handler(DataPlaneError)
async def explain(_: Request, error: DataPlaneError) -> Response:
    """Answer what a call raised before anything of the response was sent."""
    headers = {}
    if error.code == "unavailable" and error.retry:
        headers["retry-after"] = "1"
    if error.code == "out_of_range" and "size_bytes" in error.details:
        headers["content-range"] = f"bytes */{error.details['size_bytes']}"
    document = {"code": error.code, "message": error.message}
    return JSONResponse(document, STATUS.get(error.code, 500), headers)


@app.head("/objects/{address}")
async def look(address: str) -> Response:
    """Say what there is without opening it."""
    found = await client.stat_objects([ContentAddress(address)])
    if not found:
        return Response(status_code=404)
    headers = {"content-length": str(found[0].size_bytes), "etag": f'"{address}"'}
    return Response(headers=headers)


@app.delete("/objects/{address}", status_code=204)
async def delete(address: str) -> None:
    """Remove an object, if it is there."""
    await client.delete_object(ContentAddress(address))
