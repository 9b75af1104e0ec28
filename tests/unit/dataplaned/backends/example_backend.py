"""A backend as somebody else may write one: what `memory` has, in a directory as well.

It shows what it takes to keep the promises, and is not meant for many or large objects: all of
them are in memory, and the event loop waits for the disk. Announced by an entry point, it is

    [backend.example]
    type = "example"
    root = "/some/directory"
"""

import os
from pathlib import Path

from dataplane_protocol import Digest, UnavailableError
from dataplaned.backends.base import Backend, Published
from dataplaned.backends.memory import MemoryBackend
from dataplaned.digests import Digester, ObjectDigests


def make_backend(backend_id, settings) -> Backend:
    if set(settings) != {"root"}:
        raise ValueError(f"root: must be there, and nothing else; there is {sorted(settings)}")
    return ExampleBackend(backend_id, Path(settings["root"]))


class ExampleBackend(MemoryBackend):
    def __init__(self, backend_id: str, root: Path) -> None:
        super().__init__(backend_id)
        self._root = root

    async def open(self) -> None:
        self._root.mkdir(exist_ok=True)
        contents = {
            path: path.read_bytes().partition(b"\n") for path in self._root.glob("*.object")
        }
        for path, (generation, _, data) in sorted(
            contents.items(), key=lambda item: int(item[1][0])
        ):
            digester = Digester()
            digester.update([data])
            self._generation = int(generation) - 1
            if (digests := digester.finish()).blake3.hex() == path.stem:
                super().put(digests, data)
        last = self._root / "deleted"
        self._generation = max(self._generation, int(last.read_bytes()) if last.exists() else 0)

    def put(self, digests: ObjectDigests, data: bytes) -> Published:
        """Nobody sees what is put before its file is durable."""
        self._write(f"{digests.blake3.hex()}.object", b"%d\n%b" % (self._generation + 1, data))
        return super().put(digests, data)

    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        name = self._blake3_names.get(digest)
        if name is not None and if_generation in (None, self._entries[name].status.generation):
            self._write("deleted", b"%d" % self._generation)  # so that it is not given again
            (self._root / f"{name.hex}.object").unlink()
            self._sync()
        return await super().delete(digest, if_generation)

    def _write(self, name: str, content: bytes) -> None:
        try:
            with open(self._root / "new", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(self._root / "new", self._root / name)
            self._sync()
        except OSError as exc:
            raise UnavailableError(f"disk of the example: {exc}") from exc

    def _sync(self) -> None:
        directory = os.open(self._root, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
