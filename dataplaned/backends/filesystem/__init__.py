"""Objects as files of one local filesystem, and a SQLite catalog that says which exist."""

from .backend import FilesystemBackend as FilesystemBackend
from .root import StoreInUseError as StoreInUseError
