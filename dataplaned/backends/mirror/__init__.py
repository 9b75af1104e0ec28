"""The mirror backend: see backend.py."""

from .backend import MirrorBackend as MirrorBackend
