import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dataplane_client.blocking import BlockingDataPlaneClient, connect
from dataplane_protocol import ContentAddress, DeletionResult, VerifyResult
from dataplaned.cli.exits import CommandError
from dataplaned.cli.private_daemon import private_daemon
from dataplaned.cli.program import run
from dataplaned.cli.samples import main_sample
from dataplaned.cli.trial import Step, Trial


def listed(client: BlockingDataPlaneClient) -> set[str]:
    return {str(status.content_address) for page in client.list_objects() for status in page}


@pytest.mark.slow
def test_a_selftest_on_a_private_daemon_passes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert run(["selftest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok  ") for line in lines[:-1])
    assert lines[-1].startswith(f"selftest passed: {len(lines) - 1} steps")
    assert os.listdir(tmp_path) == []


def test_a_running_daemon_is_left_as_it_was(
    shared_socket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(200_000))
    with connect(shared_socket) as client:
        # The objects of the self-test that cannot be made its own, and one more.
        kept = [client.ingest_stream([content]) for content in (b"", b"another")]
        before = listed(client)
        command = ["selftest", "--socket", shared_socket, "--json", str(tmp_path / "file")]
        assert run(command) == 0
        assert listed(client) == before
        document = json.loads(capsys.readouterr().out)
        assert document["ok"] is True
        assert {step["name"] for step in document["steps"]} == {
            *("health", "ingest", "serve", "range", "sha256", "stat", "verify", "list"),
            *("edge", "refuse", "delete"),
        }
        for result in kept:
            assert client.verify_object(result.receipt.content_address).verified


def test_the_file_of_the_user_is_kept_if_it_was_there_before(
    shared_socket: str, tmp_path: Path
) -> None:
    content = os.urandom(200_000)
    (tmp_path / "file").write_bytes(content)
    with connect(shared_socket) as client:
        address = client.ingest_stream([content]).receipt.content_address
        before = listed(client)
        assert run(["selftest", "--socket", shared_socket, str(tmp_path / "file")]) == 0
        assert listed(client) == before
        assert str(address) in before


class Forgetful(BlockingDataPlaneClient):
    """A client of a data plane that finds every object bad."""

    def verify_object(
        self, content_address: ContentAddress, *, backend_id: str | None = None
    ) -> VerifyResult:
        result = super().verify_object(content_address, backend_id=backend_id)
        return VerifyResult(
            content_address=content_address,
            verified=False,
            actual_primary_digest=result.actual_primary_digest,
            actual_sha256_digest=result.actual_sha256_digest,
            actual_size_bytes=result.actual_size_bytes,
            mismatch="size",
        )


class Interrupted(BlockingDataPlaneClient):
    """A client whose user loses patience."""

    def verify_object(
        self, content_address: ContentAddress, *, backend_id: str | None = None
    ) -> VerifyResult:
        raise KeyboardInterrupt


class Undying(BlockingDataPlaneClient):
    """A client of a data plane that says it deletes and does not."""

    def delete_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
        if_generation: int | None = None,
    ) -> DeletionResult:
        return DeletionResult(content_address, "local", deleted=True)


def test_failed_steps_are_told_and_leave_nothing_either(shared_socket: str) -> None:
    steps: list[Step] = []
    with Forgetful(shared_socket) as client:
        before = listed(client)
        Trial(client, steps.append).run(main_sample(None))
        assert listed(client) == before
    failed = [step for step in steps if step.failure is not None]
    assert {step.name for step in failed} == {"verify", "edge"}
    assert {step.failure for step in failed} == {"size"}


def test_an_interrupted_trial_leaves_nothing(shared_socket: str) -> None:
    with Interrupted(shared_socket) as client:
        before = listed(client)
        with pytest.raises(KeyboardInterrupt):
            Trial(client, lambda _: None).run(main_sample(None))
        assert listed(client) == before


def test_a_delete_that_does_not_delete_is_found(shared_socket: str) -> None:
    steps: list[Step] = []
    with Undying(shared_socket) as client:
        Trial(client, steps.append).run(main_sample(None))
    deletes = [step for step in steps if step.name == "delete"]
    assert {step.failure for step in deletes} == {"still there"}


def test_a_data_plane_that_does_not_answer_is_one_failed_step(tmp_path: Path) -> None:
    steps: list[Step] = []
    with connect(str(tmp_path / "none")) as client:
        Trial(client, steps.append).run(main_sample(None))
    assert [step.name for step in steps] == ["health"]
    assert steps[0].failure is not None


def test_a_daemon_that_cannot_start_is_told_with_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CommandError, match="ended while starting"), private_daemon():
        pass


@pytest.mark.slow
def test_an_interrupted_selftest_takes_its_daemon_along(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "signal")
    script = (
        "import os, signal\n"
        "from dataplaned.cli.private_daemon import private_daemon\n"
        "signal.signal(signal.SIGTERM, lambda *_: exit(143))\n"
        "with private_daemon() as path:\n"
        "    print(path, flush=True)\n"
        "    signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    socket_path = process.stdout.readline().decode().strip()
    assert os.path.exists(socket_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    process.stdout.close()
    assert not os.path.exists(os.path.dirname(socket_path))
