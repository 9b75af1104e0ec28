"""Verdicts for people, as JSON and as JUnit XML."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from .verdicts import Level, Outcome, Verdict

#: The description of the JSON document; a change that breaks readers counts it up.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts of a run.

    Args:
        target: What was judged: the path of a socket or a command.
        verdicts: In the order played.
        is_strict: Whether failures of what is only recommended count.
    """

    target: str
    verdicts: Sequence[Verdict]
    is_strict: bool

    @property
    def failures(self) -> list[Verdict]:
        """The verdicts that count against the target."""
        return [verdict for verdict in self._failed() if self._counts(verdict)]

    def lines(self) -> list[str]:
        """Give a line for each failure and the summary, for people."""
        lines = [
            f"FAIL {verdict.level} {verdict.case_id}: expected {verdict.expected}, "
            f"got {verdict.got} [{verdict.ending}]"
            for verdict in self._failed()
        ]
        uncounted = len(self._failed()) - len(self.failures)
        if uncounted:
            lines.append(f"{uncounted} of these are recommendations and count with --strict only")
        return [*lines, self.summary()]

    def summary(self) -> str:
        """Give the one line that says how it went."""
        counts = self._counts_by_outcome()
        return f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"

    def to_json(self) -> str:
        """Give everything as one JSON document."""
        document = {
            "format": FORMAT,
            "target": self.target,
            "strict": self.is_strict,
            "summary": self._counts_by_outcome(),
            "cases": [
                {
                    "id": verdict.case_id,
                    "section": verdict.section,
                    "title": verdict.title,
                    "level": verdict.level.value,
                    "verdict": verdict.outcome.value,
                    "expected": verdict.expected,
                    "got": verdict.got,
                    "connection": verdict.ending.value,
                    "seconds": round(verdict.seconds, 6),
                }
                for verdict in self.verdicts
            ],
        }
        return json.dumps(document, indent=1) + "\n"

    def to_junit(self) -> str:
        """Give everything as JUnit XML: sections are classes, uncounted failures skipped."""
        counts = self._counts_by_outcome()
        suite = ET.Element(
            "testsuite",
            name="dataplane_conformance",
            tests=str(len(self.verdicts)),
            failures=str(counts["failed"]),
            errors="0",
            skipped=str(len(self.verdicts) - counts["passed"] - counts["failed"]),
            time=f"{sum(verdict.seconds for verdict in self.verdicts):.6f}",
        )
        for verdict in self.verdicts:
            self._add_junit_case(suite, verdict)
        return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

    def _add_junit_case(self, suite: ET.Element, verdict: Verdict) -> None:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"dataplane_conformance.{verdict.section.replace('.', '_')}",
            name=verdict.case_id,
            time=f"{verdict.seconds:.6f}",
        )
        if verdict.outcome is Outcome.PASSED:
            return
        text = verdict.got
        if verdict.outcome is Outcome.FAILED:
            text = f"expected {verdict.expected}, got {verdict.got}"
        tag = "failure" if self._counts(verdict) else "skipped"
        message = _printable(text)
        ET.SubElement(case, tag, message=message).text = f"{verdict.title} [{verdict.ending}]"

    def _failed(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.outcome is Outcome.FAILED]

    def _counts(self, verdict: Verdict) -> bool:
        is_binding = self.is_strict or verdict.level is Level.MUST
        return verdict.outcome is Outcome.FAILED and is_binding

    def _counts_by_outcome(self) -> dict[str, int]:
        counts = Counter(verdict.outcome for verdict in self.verdicts)
        return {
            "passed": counts[Outcome.PASSED],
            "failed": len(self.failures),
            "failed_should": sum(v.level is Level.SHOULD for v in self._failed()),
            "skipped": counts[Outcome.SKIPPED],
        }


def _printable(text: str) -> str:
    # XML 1.0 has no way to write most control characters.
    return "".join(char if char.isprintable() else " " for char in text)
