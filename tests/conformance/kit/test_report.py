"""What the kit prints and writes, and how it is called."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from dataplane_conformance.client import run as client_run
from dataplane_conformance.daemon import run as daemon_run
from dataplane_conformance.program import main
from dataplane_conformance.report import Report
from dataplane_conformance.verdicts import (
    Case,
    Ending,
    FailedError,
    Group,
    Level,
    Outcome,
    SkippedError,
    Verdict,
    shown,
)

GROUP = Group[list[str]]()


@GROUP.must("5.2")
def a_case_that_passes(subject: list[str]) -> None:
    """All is well."""
    subject.append("played")


@GROUP.must("5.3")
def a_case_that_fails(_: list[str]) -> None:
    """Something is due."""
    raise FailedError("an <answer> & more", "nothing\0 \x1b[0m")


@GROUP.should("8.1")
def a_case_that_should_not_fail(_: list[str]) -> None:
    """Something would be nice."""
    raise FailedError("this", "that")


@GROUP.must("7")
def a_case_that_is_skipped(_: list[str]) -> None:
    """Something cannot be played."""
    raise SkippedError("there is no such thing here")


def _report(*, is_strict: bool) -> Report:
    subject: list[str] = []
    verdicts = [case.judge(subject, lambda: Ending.OPEN) for case in GROUP]
    assert subject == ["played"]
    return Report("/run/dp.sock", verdicts, is_strict)


def test_a_case_has_its_id_and_title_from_its_function() -> None:
    case = next(iter(GROUP))
    assert (case.case_id, case.title) == ("5.2/a-case-that-passes", "All is well.")
    assert case.level is Level.MUST


def test_failures_are_printed_and_the_summary_is_last() -> None:
    lines = _report(is_strict=False).lines()
    assert lines[0].startswith("FAIL must 5.3/a-case-that-fails: expected an <answer> & more, got")
    assert (
        lines[1]
        == "FAIL should 8.1/a-case-that-should-not-fail: expected this, got that [still open]"
    )
    assert "count with --strict only" in lines[2]
    assert lines[-1] == "1 passed, 1 failed, 1 skipped"


def test_recommendations_count_when_it_is_strict() -> None:
    report = _report(is_strict=True)
    assert report.lines()[-1] == "1 passed, 2 failed, 1 skipped"
    assert len(report.failures) == 2


def test_the_json_has_every_case() -> None:
    document = json.loads(_report(is_strict=False).to_json())
    assert document["format"] == 1
    assert document["target"] == "/run/dp.sock"
    assert document["summary"] == {"passed": 1, "failed": 1, "failed_should": 1, "skipped": 1}
    passed, failed, _, skipped = document["cases"]
    assert passed["verdict"] == "pass"
    assert (failed["section"], failed["level"], failed["verdict"]) == ("5.3", "must", "fail")
    assert (failed["expected"], failed["connection"]) == ("an <answer> & more", "still open")
    assert (skipped["verdict"], skipped["got"]) == ("skip", "there is no such thing here")


@pytest.mark.parametrize(("is_strict", "failures", "skipped"), [(False, 1, 2), (True, 2, 1)])
def test_the_junit_xml_is_well_formed(is_strict: bool, failures: int, skipped: int) -> None:
    suite = ET.fromstring(_report(is_strict=is_strict).to_junit())
    assert suite.tag == "testsuite"
    assert [suite.get(key) for key in ("tests", "failures", "skipped", "errors")] == [
        "4",
        str(failures),
        str(skipped),
        "0",
    ]
    assert len(suite.findall("testcase")) == 4
    assert len(suite.findall("testcase/failure")) == failures
    assert len(suite.findall("testcase/skipped")) == skipped
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "<answer> & more" in str(failure.get("message"))


def test_what_came_is_shown_in_one_line() -> None:
    assert shown(None) == "end of the connection"
    assert shown(b"\0" * 100) == f"100 bytes of data, {'00' * 24}..."
    assert shown({"a": "x\ny" * 1000}).count("\n") == 0
    assert len(shown("x" * 1000)) == 300


def _ids(cases: Any) -> list[str]:
    return [case.case_id for case in cases]


@pytest.mark.parametrize("cases", [daemon_run.cases, client_run.cases], ids=["daemon", "client"])
def test_ids_are_unique_and_cite_a_section(cases: Callable[[], Any]) -> None:
    ids = _ids(cases())
    assert len(set(ids)) == len(ids)
    spec = Path(__file__).parents[3] / "protocol" / "SPEC.md"
    headings = {
        line.lstrip("#").split()[0].rstrip(".")
        for line in spec.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    }
    assert {name.partition("/")[0] for name in ids} <= headings


def test_cases_are_chosen_by_id_or_pattern() -> None:
    case: Case[None] = Case("5.3/some-name", "", Level.MUST, lambda _: None)
    assert case.is_chosen([])
    assert case.is_chosen(["4/*", "5.3/*"])
    assert case.is_chosen(["5.3/some-name"])
    assert not case.is_chosen(["5.3", "some-name"])


def test_cases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere", "--list", "--only", "7.5/*"]) == 0
    assert "7.5/health [must] " in capsys.readouterr().out
    assert main(["--serve", "/nowhere", "--list", "--only", "12.3/*"]) == 0
    assert "12.3/lost-in-a-call [must] " in capsys.readouterr().out


def test_an_id_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere", "--only", "no/such-case"]) == 2
    assert "no case" in capsys.readouterr().err


def test_a_client_needs_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--serve", "/nowhere"], ["/nowhere", "--", "true"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_nobody_who_listens_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "no.sock")]) == 69
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert main(["--serve", str(tmp_path / "file"), "--", "true"]) == 69
    assert (tmp_path / "file").read_text() == "mine"


def test_the_kit_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """It is imported and lists its cases where nothing is installed."""
    protocol = Path(__file__).parents[3] / "protocol"
    for name in ("dataplane_conformance", "vectors"):
        (tmp_path / name).symlink_to(protocol / name)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") > 300


_ALONE = """
import sys
sys.path.append(sys.argv[1])
from dataplane_conformance.program import main
main(["/nowhere", "--list"])
main(["--serve", "/nowhere", "--list"])
foreign = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
sys.exit(str(foreign - {"dataplane_conformance", "__main__"}) if len(foreign) > 2 else 0)
"""


def test_a_verdict_knows_its_section() -> None:
    verdict = Verdict(
        case_id="5.11/x",
        title="",
        level=Level.MUST,
        outcome=Outcome.PASSED,
        ending=Ending.NONE,
        seconds=0,
    )
    assert verdict.section == "5.11"
