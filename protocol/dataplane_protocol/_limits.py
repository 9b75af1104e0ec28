"""The constants of the contract (`SPEC.md` 9). Nothing about them is negotiated.

Every length is refused from its announcement alone, before memory is set aside for it.
"""

from typing import Final

PROTOCOL_VERSION: Final = 1

#: Bytes of an encoded control frame.
MAX_CONTROL_SIZE: Final = 65_536

#: Payload bytes of a data frame.
MAX_DATA_SIZE: Final = 1_048_576

#: Payload bytes that senders should put in a data frame: the fastest size measured.
DATA_SIZE: Final = 262_144

#: Containers that may be nested in a control frame, the outermost included.
MAX_DEPTH: Final = 8

#: Addresses in one `stat_objects`, entries in one page of `list_objects`. A full entry takes
#: 281 bytes at most, so a full page leaves 29 KB of a control frame for keys added later.
MAX_BATCH: Final = 128

#: Entries of `list_backends`.
MAX_BACKENDS: Final = 128

#: The largest integer on the wire: exact in every language, JavaScript included.
MAX_INTEGER: Final = 2**53 - 1

#: Body bytes that a server discards after an early refusal before it may close.
MAX_DISCARD: Final = 67_108_864

#: Seconds that a server discards after an early refusal before it may close.
DISCARD_TIMEOUT: Final = 5.0

#: Seconds without progress inside a frame or a body after which a peer may close.
STALL_TIMEOUT: Final = 60.0
