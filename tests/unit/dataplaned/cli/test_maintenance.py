"""The daemon's own operations as the commands call them, over a scripted answer."""

from collections.abc import Mapping

import pytest

from dataplane_protocol import RemoteProtocolError
from dataplaned.cli.maintenance import Maintenance


class Scripted:
    """Answers private calls with what it was given, and keeps what was asked."""

    def __init__(self, *answers: Mapping[str, object]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, object]]] = []

    def call_private(self, operation: str, arguments: Mapping[str, object]) -> object:
        self.asked.append((operation, arguments))
        return self.answers.pop(0)


def page(*numbers: int, more: bool) -> dict[str, object]:
    copies = [
        {
            "number": number,
            "content_address": "blake3:" + "00" * 32,
            "size_bytes": 1,
            "reason": "content differs",
            "found_at_ms": 1,
            "is_only_copy": True,
        }
        for number in numbers
    ]
    return {"copies": copies, "more": more}


def walk(client: Scripted) -> list[int]:
    maintenance = Maintenance(client, "b")  # type: ignore[arg-type]  # it answers what is asked
    return [copy.number for copy in maintenance.quarantined()]


def test_the_quarantine_is_walked_page_by_page() -> None:
    client = Scripted(page(2, 3, more=True), page(9, more=False))
    assert walk(client) == [2, 3, 9]
    assert client.asked == [
        ("dataplaned.quarantine_list", {"after": after, "limit": 100, "backend_id": "b"})
        for after in (0, 3)
    ]


@pytest.mark.parametrize("second", [page(more=True), page(3, more=True), page(1, more=True)])
def test_a_page_that_does_not_go_forward_is_a_violation(second: Mapping[str, object]) -> None:
    with pytest.raises(RemoteProtocolError, match="forward"):
        walk(Scripted(page(3, more=True), second))
