"""Client of dataplaned: a `DataPlane` over a Unix socket.

`connect` gives the client for trio and asyncio; `dataplane_client.blocking` has its twin for
plain threads. Values and errors are those of `dataplane_protocol`.
"""

from ._body import ServedObject as ServedObject
from ._client import DataPlaneClient as DataPlaneClient, connect as connect
from ._version import __version__ as __version__
