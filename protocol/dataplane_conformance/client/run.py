"""All cases of a client, and playing them one after the other."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain

from ..verdicts import Case, Verdict
from . import answers, bodies, conversations, lost, single_frames
from .subject import Client


def cases() -> Iterator[Case[Client]]:
    """Give every case, those of the vectors first."""
    # Those that can share a client come one after the other.
    groups = (module.GROUP for module in (bodies, answers, lost))
    return chain(single_frames.cases(), conversations.cases(), *groups)


def play(client: Client, chosen: Iterable[Case[Client]]) -> Iterator[Verdict]:
    """Play cases and give each verdict.

    Raises:
        OSError: It cannot listen, or there is no such adapter.
    """
    client.open()
    with closing(client):
        for case in chosen:
            yield case.judge(client, lambda: client.ending)
