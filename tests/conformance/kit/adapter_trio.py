"""Lets the conformance kit drive the asynchronous client, on trio."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import telling
import trio

import dataplane_client
from dataplane_protocol import (
    ContentAddress,
    backend_list_to_wire,
    backend_status_to_wire,
    deletion_result_to_wire,
    ingest_result_to_wire,
    object_page_to_wire,
    stat_result_to_wire,
    verify_result_to_wire,
)


class Driver:
    def __init__(self, plane: dataplane_client.DataPlaneClient) -> None:
        self._plane = plane
        self.received = 0

    async def make(self, call: dict[str, Any]) -> dict[str, Any]:
        self.received = 0
        plane, args = self._plane, call["args"]
        backend = args.get("backend_id")
        match call["op"]:
            case "ingest_stream":
                return ingest_result_to_wire(
                    await plane.ingest_stream(
                        _pieces(call),
                        hints=telling.hints(call),
                        expected_digest=telling.digest(call),
                    )
                )
            case "serve_object":
                return await self._serve(call)
            case "verify_object":
                result = await plane.verify_object(telling.address(call), backend_id=backend)
                return verify_result_to_wire(result)
            case "delete_object":
                generation = args.get("if_generation")
                return deletion_result_to_wire(
                    await plane.delete_object(
                        telling.address(call), backend_id=backend, if_generation=generation
                    )
                )
            case "backend_health":
                return backend_status_to_wire(await plane.backend_health(backend_id=backend))
            case "stat_objects":
                names = [ContentAddress(name) for name in args["content_addresses"]]
                return stat_result_to_wire(await plane.stat_objects(names, backend_id=backend))
            case "list_objects":
                async with aclosing(plane.list_objects(**telling.list_options(call))) as pages:
                    return object_page_to_wire(await anext(pages))
            case _:
                return backend_list_to_wire(await plane.list_backends())

    async def _serve(self, call: dict[str, Any]) -> dict[str, Any]:
        body = hashlib.sha256()
        async with await self._plane.serve_object(
            telling.address(call), **telling.serve_options(call)
        ) as served:
            async for piece in served:
                body.update(piece)
                self.received += len(piece)
                if self.received >= call.get("read", telling.MAX_INTEGER):
                    break
        return {
            "size_bytes": served.size,
            "offset": served.offset,
            "length": served.length,
            "body_digest": f"sha256:{body.hexdigest()}",
        }


async def _pieces(call: dict[str, Any]) -> AsyncIterator[bytes]:
    for piece in telling.pieces(call):
        yield piece


async def main() -> None:
    request = telling.request()
    async with dataplane_client.connect(request["socket"]) as plane:
        driver = Driver(plane)
        for call in request["calls"]:
            try:
                result = await driver.make(call)
            except Exception as exc:
                telling.tell_error(exc, driver.received)
            else:
                telling.tell_ok(result)


if __name__ == "__main__":
    trio.run(main)
