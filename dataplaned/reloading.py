"""The configuration read again while the daemon runs: what can change does, the rest is named."""

from collections.abc import Callable, Mapping, Sequence

import structlog

from .access import UnknownPrincipalError
from .backends.base import Backend
from .config import Config, ConfigurationError, changed_while_running, changes
from .door import Services
from .listening import Listener
from .sockets import access_by_socket
from .telemetry import Audit, set_level

_log = structlog.get_logger(__name__)


class Reloader:
    """Reads a configuration again, and has those who use it take over what is new.

    Args:
        config: What holds now.
        load: Reads it again.
        listeners: The sockets, whose callers' rights may change.
        services: What sessions use.
        backends: Whose settings may change, by id.
        audit: Whose file may have been moved away.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        listeners: Sequence[Listener],
        services: Services,
        backends: Mapping[str, Backend],
        audit: Audit,
    ) -> None:
        self.config = config
        self._load = load
        self._listeners = listeners
        self._services = services
        self._backends = backends
        self._audit = audit

    def reload(self) -> None:
        """Do it. A configuration that cannot be used changes nothing, and is told in the log."""
        try:
            new = self._load()
            found = changes(self.config, new)
            config = changed_while_running(self.config, new)
            access = access_by_socket(config, self._listeners)
        except (ConfigurationError, UnknownPrincipalError, OSError) as exc:
            _log.error("reload_refused", problems=str(exc).splitlines())
            return
        self._apply(config)
        self._services.access = access
        self._services.roster.entitle(access)
        _log.info("reloaded", applied=found.applied)
        if found.needs_restart:
            _log.warning("reload_needs_restart", keys=found.needs_restart)

    def _apply(self, config: Config) -> None:
        self.config = config
        self._services.roster.limits = config.daemon
        self._services.plane.max_object_size = config.daemon.max_object_size
        for backend_id, backend in self._backends.items():
            backend.reconfigure(config.backend[backend_id])
        set_level(config.log.level)
        try:
            self._audit.reopen()
        except OSError as exc:
            _log.error("audit_not_reopened", path=config.log.audit, reason=exc.strerror)
