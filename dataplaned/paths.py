"""Where a daemon and its clients meet when nobody names a place.

Apart from the configuration, which every command would have to load for a default otherwise.
"""

import os


def default_socket_path() -> str:
    """Give the socket that the daemon and its clients agree on when nobody names one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or "/run"
    return f"{runtime}/dataplaned/dataplaned.sock"


def default_store_path() -> str:
    """Give the store of a daemon that was not told of one."""
    if os.geteuid() == 0:
        return "/var/lib/dataplaned"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/dataplaned"
