"""The kit against clients: ours on threads and on trio, and one that shares no code with it."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Reasons for which a case is skipped although nothing is wrong with either side.
REASONS = ("decides otherwise", "does not offer", "needs a client with --computes")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["blocking", "trio", "node"])
def test_a_client_passes_everything(
    judge: Callable[..., Any], adapter: Callable[..., list[str]], socket_path: str, name: str
) -> None:
    judgement = judge("--serve", socket_path, "--strict", "--", *adapter(name))
    assert judgement.failed == []
    assert len(judgement.cases) > 300
    assert [why for why in judgement.skipped.values() if not any(r in why for r in REASONS)] == []
    assert judgement.code == 0


@pytest.mark.slow
def test_a_client_that_computes_digests_is_held_to_it(
    judge: Callable[..., Any], adapter: Callable[..., list[str]], socket_path: str
) -> None:
    options = ("--computes", "sha256", "--only", "5.7/serve-and-the-end-has-another-sha-256-digest")
    judgement = judge("--serve", socket_path, *options, "--", *adapter("node"))
    assert judgement.output.endswith("1 passed, 0 failed, 0 skipped\n")


def test_our_client_passes_what_is_quick(
    judge: Callable[..., Any], adapter: Callable[..., list[str]], socket_path: str
) -> None:
    options = [option for case in ("7.5/*", "8.1/codes*") for option in ("--only", case)]
    judgement = judge("--serve", socket_path, "--strict", *options, "--", *adapter("blocking"))
    assert judgement.failed == []
    assert judgement.code == 0


def _script(tmp_path: Path, source: str) -> list[str]:
    path = tmp_path / "adapter.py"
    path.write_text(source, encoding="utf-8")
    return [sys.executable, str(path)]


def test_an_adapter_that_ends_early_is_told_with_its_last_words(
    judge: Callable[..., Any], socket_path: str, tmp_path: Path
) -> None:
    command = _script(tmp_path, "raise SystemExit('no such client')")
    judgement = judge("--serve", socket_path, "--only", "7.5/health", "--", *command)
    assert judgement.failed == ["7.5/health"]
    assert "no such client" in judgement.cases["7.5/health"]["got"]


def test_an_adapter_may_say_that_its_client_cannot_do_something(
    judge: Callable[..., Any], socket_path: str, tmp_path: Path
) -> None:
    command = _script(tmp_path, """print('{"unsupported": "no such operation"}', flush=True)""")
    judgement = judge("--serve", socket_path, "--only", "7.5/health", "--", *command)
    assert judgement.skipped == {"7.5/health": "the adapter says: no such operation"}


def test_an_adapter_that_prints_something_else_fails(
    judge: Callable[..., Any], socket_path: str, tmp_path: Path
) -> None:
    command = _script(tmp_path, "print('all is well', flush=True)")
    judgement = judge("--serve", socket_path, "--only", "7.5/health", "--", *command)
    assert "one JSON document" in judgement.cases["7.5/health"]["expected"]


def test_the_request_names_the_socket_and_the_calls(
    judge: Callable[..., Any], socket_path: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    source = f"import sys; open({str(told)!r}, 'w').write(sys.argv[-1])"
    judge("--serve", socket_path, "--only", "7.1/ingest", "--", *_script(tmp_path, source))
    request = json.loads(told.read_text())
    assert request["socket"] == socket_path
    ingest, health = request["calls"]
    assert (ingest["op"], ingest["args"], set(ingest)) == (
        "ingest_stream",
        {},
        {"op", "args", "body"},
    )
    assert health == {"op": "backend_health", "args": {}}


def test_a_socket_left_behind_is_replaced_and_removed_at_the_end(
    judge: Callable[..., Any], socket_path: str, adapter: Callable[..., list[str]]
) -> None:
    for _ in range(2):
        judge("--serve", socket_path, "--only", "7.5/health", "--", *adapter("blocking"))
        assert not Path(socket_path).exists()
    assert not stat.S_ISSOCK(Path(socket_path).parent.stat().st_mode)
