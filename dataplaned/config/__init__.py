"""The configuration: files, environment and command line into frozen values, once.

`example.toml` has every key. Whatever is wrong is named with its file and key, and everything that
is wrong is named at once.
"""

from .changes import (
    Changes as Changes,
    changed_while_running as changed_while_running,
    changes as changes,
)
from .loading import (
    ENTRY_POINT_GROUP as ENTRY_POINT_GROUP,
    Loaded as Loaded,
    load as load,
    load_config as load_config,
)
from .values import (
    AccessConfig as AccessConfig,
    BackendConfig as BackendConfig,
    Config as Config,
    ConfigurationError as ConfigurationError,
    CredentialSource as CredentialSource,
    DaemonConfig as DaemonConfig,
    FilesystemConfig as FilesystemConfig,
    LogConfig as LogConfig,
    MemoryConfig as MemoryConfig,
    MetricsConfig as MetricsConfig,
    MirrorConfig as MirrorConfig,
    ObjectStoreConfig as ObjectStoreConfig,
    RoleName as RoleName,
    SideConfig as SideConfig,
    SocketConfig as SocketConfig,
    ThirdPartyConfig as ThirdPartyConfig,
)
from .writing import annotated as annotated, example as example, to_toml as to_toml
