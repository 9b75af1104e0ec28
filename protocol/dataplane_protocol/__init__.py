"""The wire contract of an artifact store's data plane.

Control planes need the SPI (`DataPlane`, `IngestHints`, `IngestResult`, `VerifyResult`), its
values and its errors. Authors of clients and daemons also find the codec and the
half-machines here, sans-IO. `SPEC.md` is the contract in prose.
"""

from ._arguments import (
    ARGUMENTS as ARGUMENTS,
)
from ._arguments import (
    Arguments as Arguments,
)
from ._arguments import (
    DeleteArguments as DeleteArguments,
)
from ._arguments import (
    HealthArguments as HealthArguments,
)
from ._arguments import (
    IngestArguments as IngestArguments,
)
from ._arguments import (
    ListArguments as ListArguments,
)
from ._arguments import (
    ListBackendsArguments as ListBackendsArguments,
)
from ._arguments import (
    Operation as Operation,
)
from ._arguments import (
    ServeArguments as ServeArguments,
)
from ._arguments import (
    StatArguments as StatArguments,
)
from ._arguments import (
    VerifyArguments as VerifyArguments,
)
from ._connection import (
    Connection as Connection,
)
from ._connection import (
    ConnectionClosed as ConnectionClosed,
)
from ._connection import (
    Event as Event,
)
from ._errors import (
    ERRORS_BY_CODE as ERRORS_BY_CODE,
)
from ._errors import (
    AccessDeniedError as AccessDeniedError,
)
from ._errors import (
    BodyMismatchError as BodyMismatchError,
)
from ._errors import (
    CallCancelledError as CallCancelledError,
)
from ._errors import (
    ConflictError as ConflictError,
)
from ._errors import (
    DataPlaneError as DataPlaneError,
)
from ._errors import (
    InternalError as InternalError,
)
from ._errors import (
    InvalidRequestError as InvalidRequestError,
)
from ._errors import (
    LocalProtocolError as LocalProtocolError,
)
from ._errors import (
    NoSpaceError as NoSpaceError,
)
from ._errors import (
    ObjectCorruptError as ObjectCorruptError,
)
from ._errors import (
    ObjectNotFoundError as ObjectNotFoundError,
)
from ._errors import (
    ObjectTooLargeError as ObjectTooLargeError,
)
from ._errors import (
    ProtocolError as ProtocolError,
)
from ._errors import (
    RangeNotSatisfiableError as RangeNotSatisfiableError,
)
from ._errors import (
    RemoteProtocolError as RemoteProtocolError,
)
from ._errors import (
    UnavailableError as UnavailableError,
)
from ._errors import (
    UnknownBackendError as UnknownBackendError,
)
from ._errors import (
    UnsupportedError as UnsupportedError,
)
from ._errors import (
    error_from_code as error_from_code,
)
from ._frames import (
    FrameDecoder as FrameDecoder,
)
from ._frames import (
    data_head as data_head,
)
from ._frames import (
    encode_frame as encode_frame,
)
from ._halves import (
    TRANSITIONS as TRANSITIONS,
)
from ._halves import (
    Halves as Halves,
)
from ._halves import (
    OrderError as OrderError,
)
from ._halves import (
    Side as Side,
)
from ._halves import (
    State as State,
)
from ._halves import (
    Step as Step,
)
from ._identity import (
    ALGORITHMS as ALGORITHMS,
)
from ._identity import (
    BLAKE3 as BLAKE3,
)
from ._identity import (
    SHA256 as SHA256,
)
from ._identity import (
    ContentAddress as ContentAddress,
)
from ._identity import (
    Digest as Digest,
)
from ._limits import (
    DATA_SIZE as DATA_SIZE,
)
from ._limits import (
    DISCARD_TIMEOUT as DISCARD_TIMEOUT,
)
from ._limits import (
    MAX_BATCH as MAX_BATCH,
)
from ._limits import (
    MAX_CONTROL_SIZE as MAX_CONTROL_SIZE,
)
from ._limits import (
    MAX_DATA_SIZE as MAX_DATA_SIZE,
)
from ._limits import (
    MAX_DEPTH as MAX_DEPTH,
)
from ._limits import (
    MAX_DISCARD as MAX_DISCARD,
)
from ._limits import (
    MAX_INTEGER as MAX_INTEGER,
)
from ._limits import (
    PROTOCOL_VERSION as PROTOCOL_VERSION,
)
from ._limits import (
    STALL_TIMEOUT as STALL_TIMEOUT,
)
from ._messages import (
    BodyKind as BodyKind,
)
from ._messages import (
    End as End,
)
from ._messages import (
    Failure as Failure,
)
from ._messages import (
    Hello as Hello,
)
from ._messages import (
    Message as Message,
)
from ._messages import (
    Ok as Ok,
)
from ._messages import (
    Request as Request,
)
from ._messages import (
    message_from_wire as message_from_wire,
)
from ._ranges import (
    check_range as check_range,
)
from ._ranges import (
    resolve_range as resolve_range,
)
from ._results import (
    ServeResult as ServeResult,
)
from ._results import (
    backend_list_from_wire as backend_list_from_wire,
)
from ._results import (
    backend_list_to_wire as backend_list_to_wire,
)
from ._results import (
    backend_status_from_wire as backend_status_from_wire,
)
from ._results import (
    backend_status_to_wire as backend_status_to_wire,
)
from ._results import (
    deletion_result_from_wire as deletion_result_from_wire,
)
from ._results import (
    deletion_result_to_wire as deletion_result_to_wire,
)
from ._results import (
    ingest_result_from_wire as ingest_result_from_wire,
)
from ._results import (
    ingest_result_to_wire as ingest_result_to_wire,
)
from ._results import (
    object_page_from_wire as object_page_from_wire,
)
from ._results import (
    object_page_to_wire as object_page_to_wire,
)
from ._results import (
    stat_result_from_wire as stat_result_from_wire,
)
from ._results import (
    stat_result_to_wire as stat_result_to_wire,
)
from ._results import (
    verify_result_from_wire as verify_result_from_wire,
)
from ._results import (
    verify_result_to_wire as verify_result_to_wire,
)
from ._spi import (
    DataPlane as DataPlane,
)
from ._spi import (
    ExpectedDigest as ExpectedDigest,
)
from ._spi import (
    FullDataPlane as FullDataPlane,
)
from ._spi import (
    IngestHints as IngestHints,
)
from ._spi import (
    IngestResult as IngestResult,
)
from ._spi import (
    ObjectStream as ObjectStream,
)
from ._spi import (
    VerifyResult as VerifyResult,
)
from ._storage import (
    BackendList as BackendList,
)
from ._storage import (
    BackendState as BackendState,
)
from ._storage import (
    BackendStatus as BackendStatus,
)
from ._storage import (
    DeletionResult as DeletionResult,
)
from ._storage import (
    IngestOutcome as IngestOutcome,
)
from ._storage import (
    ObjectPage as ObjectPage,
)
from ._storage import (
    ObjectState as ObjectState,
)
from ._storage import (
    ObjectStatus as ObjectStatus,
)
from ._storage import (
    StorageReceipt as StorageReceipt,
)
from ._version import __version__ as __version__
