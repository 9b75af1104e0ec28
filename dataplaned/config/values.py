"""What a daemon can be told, as frozen values with their defaults."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal


class ConfigurationError(Exception):
    """The configuration cannot be used. The message has a line for each thing wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemConfig:
    """A backend of type `filesystem`.

    Attributes:
        root: Its directory, made when it is missing.
        max_verify_age_s: Seconds for which bytes that were seen to be right, by an ingest, a
            verify or the scrub, are believed to be so without looking: by an ingest of the
            same bytes, and by a client that is handed the file to read by itself.
        small_object_size: Bytes up to which an object lives in the catalog and has no file.
        min_free_bytes: Bytes of the disk that ingests leave free; when `None`, 64 MiB, or a
            64th of a small disk.
        scrub_rate: Bytes a second that the scrub reads at most; 0 turns it off.
        scrub_interval_s: Seconds after its last verification when an object is due for the
            next. With more than `max_verify_age_s`, ingests rewrite what is there already.
    """

    type: Literal["filesystem"] = "filesystem"
    root: str
    max_verify_age_s: float = 7 * 86_400.0
    small_object_size: int = 32 * 1024
    min_free_bytes: int | None = None
    scrub_rate: int = 16 * 1024 * 1024
    scrub_interval_s: float = 3.5 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """A backend of type `memory`: gone when the daemon is."""

    type: Literal["memory"] = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSource:
    """Where a secret is read from, one of the two, when the backend is opened.

    Attributes:
        credential: Name of a credential that systemd has put into `$CREDENTIALS_DIRECTORY`.
        file: Path of a file.
    """

    credential: str | None = None
    file: str | None = None

    def read(self) -> str:
        """Give the secret, without white space around it.

        Raises:
            ConfigurationError: It cannot be read.
        """
        path = self.file
        if path is None:
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if directory is None:
                raise ConfigurationError("$CREDENTIALS_DIRECTORY is not set: not run by systemd?")
            path = os.path.join(directory, self.credential or "")
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not text"
            raise ConfigurationError(f"{path}: {reason}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreConfig:
    """A backend of type `objectstore`.

    Attributes:
        url: The bucket, and a prefix in it: `s3://bucket/prefix`, `gs://`, `az://`.
        endpoint: Where the engine is, if not where its maker's cloud is; `http://` is taken
            for an engine of one's own.
        region: Its region.
        options: Further options, by the names that obstore gives them; none is a secret.
        credentials: Secret options by name, each with where it is read from. Without them it
            is the environment (`AWS_ACCESS_KEY_ID` and so on) or the machine's own role.
        spool: Directory on a local disk for bodies that are taken in; when `None`, a folder
            for it beside the daemon's default store.
        spool_size: Bytes that may be in it.
        part_size: Bytes of the pieces that objects are stored in.
        small_object_size: Bytes up to which an object is stored with its record.
        parallel_parts: Parts of all ingests that are sent at a time.
        connect_timeout_s: Seconds in which a connection has to stand.
        request_timeout_s: Seconds that one request may take.
        retry_timeout_s: Seconds after which a request that failed is not made again, and its
            caller is told.
        reclaim_after_s: Seconds after which bytes that no object has any more are removed.
            Longer than any request can be under way: 15 minutes at least.
        reclaim_interval_s: Seconds between two searches of the whole bucket for such bytes; 0
            turns them off.
    """

    type: Literal["objectstore"] = "objectstore"
    url: str
    endpoint: str | None = None
    region: str | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    credentials: Mapping[str, CredentialSource] = field(default_factory=dict[str, CredentialSource])
    spool: str | None = None
    spool_size: int = 16 * 1024**3
    part_size: int = 8 * 1024**2
    small_object_size: int = 65_536
    parallel_parts: int = 4
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 30.0
    retry_timeout_s: float = 60.0
    reclaim_after_s: float = 3600.0
    reclaim_interval_s: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyConfig:
    """A backend of a type that another distribution brings (backends/entry_points.py).

    Attributes:
        type: The name of its entry point.
        settings: The rest of its table, for whoever made it to look at.
    """

    type: str
    settings: Mapping[str, object]


#: What a side of a mirror can be.
SideConfig = FilesystemConfig | MemoryConfig | ObjectStoreConfig | ThirdPartyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorConfig:
    """A backend of type `mirror`: two backends as one, in the tables `first` and `second`.

    Attributes:
        first: The one that is read from where it can be.
        second: The other one.
        acknowledge: `both`: an ingest has to be on both sides. `first`: it has to be on the
            first, and the journal says that the second gets it.
        journal: Path of the file that says what a side still has to do; when `None`, beside
            the daemon's default store.
        compare_interval_s: Seconds between two comparisons of all that the sides have.
    """

    type: Literal["mirror"] = "mirror"
    first: SideConfig
    second: SideConfig
    acknowledge: Literal["both", "first"] = "both"
    journal: str | None = None
    compare_interval_s: float = 6 * 3600.0


BackendConfig = SideConfig | MirrorConfig

BACKEND_TYPES: Final[Mapping[str, type[BackendConfig]]] = {
    "filesystem": FilesystemConfig,
    "memory": MemoryConfig,
    "objectstore": ObjectStoreConfig,
    "mirror": MirrorConfig,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """The table `[daemon]`.

    Attributes:
        socket: Path of the Unix socket, if there is but one and it is this user's alone.
        max_connections: Connections served at a time; one more is told to try again.
        max_connections_per_user: The same for the connections of one uid.
        max_calls: Calls carried out at a time; one more is told to try again.
        max_bytes_in_flight: Bytes of bodies that are held for all calls at a time, a call being
            reckoned with the most that it can hold.
        idle_timeout_s: Seconds after which a connection without a call is closed; 0 for never.
        stall_timeout_s: Seconds that a peer may make no progress within a call.
        drain_timeout_s: Seconds that calls under way have to end in after a signal to stop.
        max_object_size: Bytes an object may have; no limit when `None`.
        serve_fd: Whether clients may read large objects from a descriptor of the file.
    """

    socket: str = ""
    max_connections: int = 1000
    max_connections_per_user: int = 1000
    max_calls: int = 1000
    max_bytes_in_flight: int = 1024**3
    idle_timeout_s: float = 0.0
    stall_timeout_s: float = 60.0
    drain_timeout_s: float = 30.0
    max_object_size: int | None = None
    serve_fd: bool = True


#: What a caller may be entitled to.
RoleName = Literal["read", "ingest", "delete", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketConfig:
    """A table `[socket.NAME]`: one more socket to listen on, or one that systemd passes on.

    Attributes:
        path: Where it is made; for one that systemd passes on under its name, `None` or the
            same path.
        user: Who owns it, by name or number; the daemon's user when `None`.
        group: Whose members may connect, by name or number; nobody else when `None`.
        mode: Its permissions, in octal.
        group_roles: What members of its group may do, besides what `[access]` says.
        users: As in `[access]`, for this socket only.
        groups: As in `[access]`, for this socket only.
    """

    path: str | None = None
    user: str | None = None
    group: str | None = None
    mode: str = "0600"
    group_roles: Sequence[RoleName] = ("read", "ingest")
    users: Mapping[str, Sequence[RoleName]] = field(default_factory=dict[str, Sequence[RoleName]])
    groups: Mapping[str, Sequence[RoleName]] = field(default_factory=dict[str, Sequence[RoleName]])


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """The table `[access]`: who may do what. Root and the daemon's own user may do all.

    Attributes:
        users: Roles by user, by name or number.
        groups: Roles by group, primary or supplementary, by name or number.
    """

    users: Mapping[str, Sequence[RoleName]] = field(default_factory=dict[str, Sequence[RoleName]])
    groups: Mapping[str, Sequence[RoleName]] = field(default_factory=dict[str, Sequence[RoleName]])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The table `[log]`.

    Attributes:
        level: What is left out is below it. At `debug` every call has its line.
        format: `auto` is `journal` where standard error is the journal's, `human` on a
            terminal, and else `json`.
        audit: Where the record of every ingest, delete, quarantine and denial goes: `log`, beside
            all other lines; `off`; or the path of a file that is appended to.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json", "journal"] = "auto"
    audit: str = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The table `[metrics]`.

    Attributes:
        listen: Where `/metrics`, `/healthz` and `/readyz` are answered over HTTP: a loopback
            address such as `127.0.0.1:9464` or `[::1]:9464`, or the path of a Unix socket;
            nowhere when `None`.
    """

    listen: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a daemon is told."""

    daemon: DaemonConfig = DaemonConfig()
    socket: Mapping[str, SocketConfig] = field(default_factory=dict[str, SocketConfig])
    access: AccessConfig = AccessConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    backend: Mapping[str, BackendConfig] = field(default_factory=dict[str, BackendConfig])
