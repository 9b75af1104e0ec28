import contextlib

import pytest

from dataplaned.backends.objectstore import ObjectStoreBackend

from .....engines.proxy import Proxy


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.slow)])
def engine(request):
    """An empty bucket."""
    return request.getfixturevalue(request.param)()


@pytest.fixture
async def open_backend(engine, tmp_path):
    """Give a function that opens a backend of the bucket, like one daemon more."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(**settings):
            backend = ObjectStoreBackend(
                "test", engine.config(tmp_path, **{"part_size": 65_536, **settings})
            )
            await backend.open()
            stack.push_async_callback(backend.aclose)
            return backend

        yield open_one


@pytest.fixture
def proxied(engine):
    """A proxy in front of the engine."""
    port = int(engine.endpoint.rpartition(":")[2])
    with contextlib.closing(Proxy(port)) as proxy:
        yield proxy
