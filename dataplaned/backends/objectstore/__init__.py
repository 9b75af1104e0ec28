"""The object store backend: see backend.py and FORMAT.md."""

from .backend import ObjectStoreBackend as ObjectStoreBackend
