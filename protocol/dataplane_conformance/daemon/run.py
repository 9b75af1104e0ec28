"""All cases of a daemon, and playing them one after the other."""

from collections.abc import Iterable, Iterator
from itertools import chain

from ..verdicts import Case, Verdict
from . import (
    conversations,
    damage,
    describing,
    descriptors,
    hellos,
    order,
    serving,
    single_frames,
    storing,
    values,
)
from .subject import Daemon


def cases() -> Iterator[Case[Daemon]]:
    """Give every case, those of the vectors first."""
    groups = (hellos, storing, order, serving, describing, descriptors, damage, values)
    return chain(single_frames.cases(), conversations.cases(), *(module.GROUP for module in groups))


def play(daemon: Daemon, chosen: Iterable[Case[Daemon]]) -> Iterator[Verdict]:
    """Play cases and give each verdict; what a case made is removed before the next.

    Raises:
        UnreachableError: Nobody listens.
    """
    daemon.look()
    for case in chosen:
        try:
            yield case.judge(daemon, lambda: daemon.ending)
        finally:
            daemon.release()
