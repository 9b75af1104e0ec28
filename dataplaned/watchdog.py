"""Whether the daemon is well, as systemd is told: its loop turns, and its backends answer."""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from .probing import Probes
from .systemd import Notifier

#: Seconds between two looks where nobody watches.
_STATUS_INTERVAL_S: Final = 10.0

_log = structlog.get_logger(__name__)


async def feed_watchdog(notifier: Notifier, probes: Probes, describe: Callable[[], str]) -> None:
    """Feed systemd's watchdog, and tell it a line of status, until cancelled.

    A backend that answers that it is not well is no reason to start the daemon again, which
    would not help it; one that does not answer within the watchdog's time is.

    Args:
        notifier: Who is told.
        probes: Of the backends.
        describe: Gives the line of status.
    """
    watched = notifier.watchdog_interval_s
    # Three times within the time, so that a late one is no end.
    interval = _STATUS_INTERVAL_S if watched is None else watched / 3
    is_well = True
    while True:
        notifier.status(describe())
        if watched is not None:
            hanging = probes.hanging(watched)
            if not hanging:
                notifier.watchdog()
            elif is_well:
                _log.error("probe_hangs", backends=hanging, seconds=watched)
            is_well = not hanging
            probes.start()
        await trio.sleep(interval)
