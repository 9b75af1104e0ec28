"""What the daemon tells of itself, as the commands ask for it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dataplane_protocol import RemoteProtocolError

from ..reports import (
    CONNECTIONS,
    METRICS,
    STATUS,
    ConnectionPage,
    ConnectionStatus,
    DaemonReport,
    MetricsPiece,
    PageArguments,
)

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient


def ask_status(client: "BlockingDataPlaneClient") -> DaemonReport:
    """Ask how the daemon is as a whole."""
    return DaemonReport.from_wire(client.call_private(STATUS))


def ask_connections(client: "BlockingDataPlaneClient") -> Iterator[ConnectionStatus]:
    """Walk over the connections, in order of their numbers."""
    after, more = 0, True
    while more:
        arguments = PageArguments(after=after).to_wire()
        page = ConnectionPage.from_wire(client.call_private(CONNECTIONS, arguments))
        yield from page.connections
        last = page.connections[-1].number if page.connections else after
        if page.more and last <= after:
            raise RemoteProtocolError("a page of the connections does not go forward")
        after, more = last, page.more


def ask_metrics(client: "BlockingDataPlaneClient") -> str:
    """Ask for the page of metrics, of one moment."""
    text, of, more = "", None, True
    while more:
        arguments = PageArguments(after=len(text), of=of).to_wire()
        piece = MetricsPiece.from_wire(client.call_private(METRICS, arguments))
        if piece.more and not piece.text:
            raise RemoteProtocolError("a piece of the metrics does not go forward")
        text, of, more = text + piece.text, piece.of, piece.more
    return text
