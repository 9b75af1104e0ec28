import pytest

from dataplane_protocol import ObjectCorruptError
from dataplaned.backends.memory import MemoryBackend
from dataplaned.digests import Digester


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


async def ingest(backend, content):
    staging = await backend.stage(None)
    await staging.write([content])
    return await staging.publish(digests_of(content))


@pytest.mark.trio
async def test_objects_are_gone_when_the_backend_is():
    backend = MemoryBackend("m")
    await backend.open()
    await ingest(backend, b"data")
    await backend.aclose()
    assert await backend.stat([digests_of(b"data").named("blake3")]) == ()
    assert (await backend.health()).object_count == 0


@pytest.mark.trio
@pytest.mark.parametrize("damaged", [b"dat", b"dbta", b"data and more"])
async def test_damaged_memory_is_not_served_and_is_healed(damaged):
    backend = MemoryBackend("m")
    name = digests_of(b"data").named("blake3")
    await ingest(backend, b"data")
    backend._entries[name].data = damaged
    assert (await backend.verify(name)).mismatch is not None
    with pytest.raises(ObjectCorruptError):
        await backend.open_object(name)
    assert (await ingest(backend, b"data")).outcome == "healed"
    async with await backend.open_object(name) as stored:
        assert await stored.read(0, 1) == b"data"


@pytest.mark.trio
async def test_an_ingest_given_up_leaves_nothing():
    backend = MemoryBackend("m")
    staging = await backend.stage(None)
    await staging.write([b"half"])
    await staging.abort()
    assert (await backend.health()).object_count == 0
