"""Azurite: Azure's blobs in the memory of a process, from npm, by package-lock.json here."""

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path
from typing import Final

from .ports import free_port, listens

#: The account that every Azurite has, and its key, which its documentation gives.
ACCOUNT: Final = "devstoreaccount1"
KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

_FOLDER: Final = Path(__file__).parent
_PROGRAM: Final = _FOLDER / "node_modules" / ".bin" / "azurite-blob"
_VERSION: Final = "2021-08-06"


def install() -> bool:
    """Install it beside this file, if there is npm; whether it is there."""
    npm = shutil.which("npm")
    if not _PROGRAM.exists() and npm is not None and os.environ.get("CI") == "true":
        subprocess.run([npm, "ci", "--silent", "--no-audit"], cwd=_FOLDER, check=True, timeout=300)
    return _PROGRAM.exists()


class Azurite:
    """The process. `close` ends it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [
                str(_PROGRAM),
                "--inMemoryPersistence",
                "--silent",
                "--skipApiVersionCheck",
                "--disableTelemetry",
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                str(self.port),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError("azurite does not start")
            time.sleep(0.05)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def create_container(self, name: str) -> None:
        """Make a container, by a request signed with the account's key."""
        date = formatdate(usegmt=True)
        signed = (
            "PUT\n"
            + "\n" * 11
            + f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n"
            + f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        )
        digest = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
        request = urllib.request.Request(
            f"{self.endpoint}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": _VERSION,
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            },
        )
        with urllib.request.urlopen(request, timeout=30):
            pass

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
