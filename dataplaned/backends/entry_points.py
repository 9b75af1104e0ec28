"""Backends that others have written, found by the names that they are installed under.

A distribution announces one by an entry point of the group `dataplaned.backends`:

    [project.entry-points."dataplaned.backends"]
    tape = "my_package.tape:make_backend"

`make_backend(backend_id, settings)` gives a `Backend`, not opened. Its settings are what the
backend's table in the configuration says besides `type = "tape"`, as TOML has it; it raises
`ValueError`, with a message for the operator, if it can make nothing of them.
"""

from importlib.metadata import entry_points

from ..config import ENTRY_POINT_GROUP, ThirdPartyConfig
from .base import Backend, BackendError


def make_backend(backend_id: str, config: ThirdPartyConfig) -> Backend:
    """Have a backend made.

    Raises:
        BackendError: It cannot be loaded, refuses its settings, or is none.
    """
    found = next(iter(entry_points(group=ENTRY_POINT_GROUP, name=config.type)))
    where = f"type {config.type!r} ({found.value})"
    try:
        made = found.load()(backend_id, config.settings)
    except ValueError as exc:
        raise BackendError(f"{where} refuses its settings: {exc}") from exc
    except Exception as exc:
        raise BackendError(f"{where} cannot be loaded: {exc!r}") from exc
    if not isinstance(made, Backend):
        raise BackendError(f"{where} gives {type(made).__name__}, must give a Backend")
    return made
