"""The control plane in small, over HTTP, on a real server and a real daemon."""

import contextlib
import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from dataplane_client.blocking import connect

HERE = Path(__file__).parent
MIB = 1024 * 1024


class Web:
    """The application in a process of its own, and a client of it."""

    def __init__(self, directory: Path, daemon) -> None:
        self.daemon = daemon
        self.path = str(directory / "http")
        environment = os.environ | {"DATAPLANED_SOCKET": daemon.socket_path}
        # Who connects before the server is there waits.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(100)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE),
                 "--fd", str(listener.fileno()), "--log-level", "warning", "web_app:app"],
                env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                pass_fds=(listener.fileno(),),
            )  # fmt: skip
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=self.path), base_url="http://app", timeout=60
        )
        assert self.http.get("/openapi.json").status_code == 200

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        _, self.errors = self.process.communicate(timeout=30)

    def upload(self, content: bytes, **query: str) -> httpx.Response:
        return self.http.put("/objects", content=content, params=query)

    def store(self, content: bytes) -> str:
        answer = self.upload(content)
        assert answer.status_code == 201
        return answer.json()["address"]

    def connect(self) -> socket.socket:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(30)
        plain.connect(self.path)
        return plain

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


@pytest.fixture(params=[True])
def daemon(request, start_daemon, tmp_path):
    """A daemon that hands large objects out as files, or streams them."""
    config = tmp_path / "c.toml"
    config.write_text(
        f"[daemon]\nserve_fd = {str(request.param).lower()}\n"
        f'[backend.local]\ntype = "filesystem"\nroot = "{tmp_path}/store"\n'
    )
    daemon = start_daemon(("--config", str(config)))
    daemon.root = tmp_path / "store"
    return daemon


#: For tests of what the daemon sees of a download: a file, once handed out, it does not.
streaming = pytest.mark.parametrize("daemon", [False], indirect=True)


@pytest.fixture
def web(daemon, short_path) -> Generator[Web]:
    with contextlib.closing(Web(short_path, daemon)) as web:
        yield web
    assert "Traceback" not in web.errors or web.expects_traceback


Web.expects_traceback = False


def calls_open(web: Web) -> int:
    """How many calls the daemon has open, beside the one that asks."""
    with connect(web.daemon.socket_path) as client:
        return client.call_private("dataplaned.status")["calls_in_flight"] - 1


def object_count(web: Web) -> int:
    with connect(web.daemon.socket_path) as client:
        return client.backend_health().object_count


def test_the_readme_has_the_application_as_it_is():
    begin, end = "# The README's part begins.\n", "# The README's part ends.\n"
    application = (HERE / "web_app.py").read_text()
    core = application.partition(begin)[2].partition(end)[0].strip("\n")
    readme = (HERE.parents[1] / "client/README.md").read_text()
    assert f"```python\n{core}\n```" in readme


@pytest.mark.slow
def test_what_was_uploaded_is_downloaded_whole_and_in_ranges(web):
    content = random.Random(1).randbytes(3 * MIB + 17)
    address = web.store(content)
    whole = web.http.get(f"/objects/{address}")
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["etag"] == f'"{address}"'
    for text, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=5-70000", 5, 70_001),
        (f"bytes={MIB}-", MIB, len(content)),
        (f"bytes={len(content) - 1}-999999999", len(content) - 1, len(content)),
    ):
        part = web.http.get(f"/objects/{address}", headers={"range": text})
        assert (part.status_code, part.content) == (206, content[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    for text in ("bytes=0-1,3-4", "lines=1-2", "bytes=x-", "bytes="):
        assert web.http.get(f"/objects/{address}", headers={"range": text}).status_code == 200
    beyond = web.http.get(f"/objects/{address}", headers={"range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416
    head = web.http.head(f"/objects/{address}")
    assert (head.status_code, int(head.headers["content-length"])) == (200, len(content))
    assert web.upload(content).json()["outcome"] == "existed"
    assert web.http.delete(f"/objects/{address}").status_code == 204
    assert web.http.get(f"/objects/{address}").status_code == 404
    assert web.http.head(f"/objects/{address}").status_code == 404


@pytest.mark.slow
def test_errors_have_their_status(web):
    digest = hashlib.sha256(b"right").hexdigest()
    assert web.upload(b"right", expected=f"sha256:{digest}").status_code == 201
    wrong = web.upload(b"wrong", expected=f"sha256:{digest}")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "body_mismatch")
    assert web.upload(b"x", expected="nonsense").status_code == 400
    assert web.http.get("/objects/nonsense").status_code == 400
    assert web.http.get("/objects/blake3:" + "0" * 64).status_code == 404


@pytest.mark.slow
def test_uploads_at_once_do_not_mix(web):
    contents = [random.Random(n).randbytes(200_000 + n) for n in range(20)]
    addresses: dict[int, str] = {}

    def work(number: int) -> None:
        addresses[number] = web.store(contents[number])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for number, address in addresses.items():
        assert web.http.get(f"/objects/{address}").content == contents[number]


@pytest.mark.slow
def test_an_uploader_that_goes_away_leaves_nothing(web):
    web.expects_traceback = True
    with web.connect() as plain:
        plain.sendall(b"PUT /objects HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
        plain.sendall(bytes(3 * MIB))
        assert web.daemon.becomes(lambda: calls_open(web) == 1)
    assert web.daemon.becomes(lambda: calls_open(web) == 0)
    assert web.daemon.files("staging") == []
    assert object_count(web) == 0
    assert web.store(b"and then?")


@streaming
@pytest.mark.slow
def test_a_downloader_that_goes_away_ends_the_call(web):
    address = web.store(random.Random(2).randbytes(40 * MIB))
    with web.connect() as plain:
        plain.sendall(f"GET /objects/{address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert plain.recv(100).startswith(b"HTTP/1.1 200")
        assert web.daemon.becomes(lambda: calls_open(web) == 1)
    assert web.daemon.becomes(lambda: calls_open(web) == 0)
    for _ in range(20):  # more than the pool has connections
        with web.connect() as plain:
            plain.sendall(f"GET /objects/{address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            plain.recv(1)
    assert web.daemon.becomes(lambda: calls_open(web) == 0)
    assert len(web.http.get(f"/objects/{address}").content) == 40 * MIB


@pytest.mark.slow
def test_a_downloader_that_goes_away_lets_the_file_go(web):
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{web.process.pid}/fd"))

    address = web.store(random.Random(2).randbytes(40 * MIB))
    web.http.get(f"/objects/{address}")
    before = descriptors()
    for _ in range(20):
        with web.connect() as plain:
            plain.sendall(f"GET /objects/{address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            plain.recv(1)
    assert web.daemon.becomes(lambda: descriptors() <= before)


@pytest.mark.slow
def test_a_daemon_that_is_away_is_503_and_that_comes_back_is_used(web):
    address = web.store(b"kept")
    web.daemon.stop()
    for answer in (web.http.get(f"/objects/{address}"), web.upload(b"more")):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
    web.daemon.start()
    assert web.http.get(f"/objects/{address}").content == b"kept"
    assert web.store(b"more")


@pytest.mark.slow
def test_an_object_that_turns_out_bad_is_never_a_whole_response(web):
    web.expects_traceback = True
    content = random.Random(3).randbytes(20 * MIB)
    address = web.store(content)
    (path,) = web.daemon.files("objects")
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(19 * MIB)
        file.write(b"rotten")
    received = bytearray()
    with pytest.raises(httpx.RemoteProtocolError):
        with web.http.stream("GET", f"/objects/{address}") as answer:
            assert answer.status_code == 200
            for piece in answer.iter_bytes():
                received += piece
    assert len(received) < len(content)
    assert content.startswith(received)
    again = web.http.get(f"/objects/{address}")
    assert (again.status_code, again.json()["code"]) == (500, "corrupt")


@streaming
@pytest.mark.slow
def test_a_slow_downloader_costs_no_memory(web):
    size = 200 * MIB
    address = web.http.put("/objects", content=(bytes([n % 251]) * MIB for n in range(200))).json()[
        "address"
    ]
    before = web.resident_bytes()
    readers = [web.connect() for _ in range(5)]
    try:
        for plain in readers:
            plain.sendall(f"GET /objects/{address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            plain.recv(1000)
        assert web.daemon.becomes(lambda: calls_open(web) == 5)
        with web.http.stream("GET", f"/objects/{address}") as answer:
            assert sum(map(len, answer.iter_bytes())) == size
    finally:
        for plain in readers:
            plain.close()
    assert web.resident_bytes() - before < 60 * MIB
