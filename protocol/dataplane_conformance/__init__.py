"""A judge of data planes: plays one side of the contract against the other.

It tests a daemon as its client, and a client as its daemon, over a real socket. It shares no
code with either and needs the standard library only, so that what it finds is a difference
from `SPEC.md` and not from another program.
"""
