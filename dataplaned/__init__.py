"""The byte-handling daemon of an artifact store, and its command line."""

__version__ = "0.1.0"
