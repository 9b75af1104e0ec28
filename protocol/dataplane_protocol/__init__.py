"""The wire contract of an artifact store's data plane.

Control planes need the SPI (`DataPlane`, `IngestHints`, `IngestResult`, `VerifyResult`), its
values and its errors. Authors of clients and daemons also find the codec and the
half-machines here, sans-IO. `SPEC.md` is the contract in prose.
"""

from ._arguments import (
    ARGUMENTS as ARGUMENTS,
    Arguments as Arguments,
    DeleteArguments as DeleteArguments,
    HealthArguments as HealthArguments,
    IngestArguments as IngestArguments,
    ListArguments as ListArguments,
    ListBackendsArguments as ListBackendsArguments,
    Operation as Operation,
    ServeArguments as ServeArguments,
    StatArguments as StatArguments,
    VerifyArguments as VerifyArguments,
)
from ._connection import (
    Connection as Connection,
    ConnectionClosed as ConnectionClosed,
    Event as Event,
)
from ._errors import (
    ERRORS_BY_CODE as ERRORS_BY_CODE,
    AccessDeniedError as AccessDeniedError,
    BodyMismatchError as BodyMismatchError,
    CallCancelledError as CallCancelledError,
    ConflictError as ConflictError,
    DataPlaneError as DataPlaneError,
    InternalError as InternalError,
    InvalidRequestError as InvalidRequestError,
    LocalProtocolError as LocalProtocolError,
    NoSpaceError as NoSpaceError,
    ObjectCorruptError as ObjectCorruptError,
    ObjectNotFoundError as ObjectNotFoundError,
    ObjectTooLargeError as ObjectTooLargeError,
    ProtocolError as ProtocolError,
    RangeNotSatisfiableError as RangeNotSatisfiableError,
    RemoteProtocolError as RemoteProtocolError,
    UnavailableError as UnavailableError,
    UnknownBackendError as UnknownBackendError,
    UnsupportedError as UnsupportedError,
    error_from_code as error_from_code,
)
from ._fields import (
    Fields as Fields,
    to_milliseconds as to_milliseconds,
)
from ._frames import (
    Buffer as Buffer,
    FrameDecoder as FrameDecoder,
    data_head as data_head,
    encode_frame as encode_frame,
    unsent as unsent,
)
from ._halves import (
    TRANSITIONS as TRANSITIONS,
    Halves as Halves,
    OrderError as OrderError,
    Side as Side,
    State as State,
    Step as Step,
)
from ._identity import (
    ALGORITHMS as ALGORITHMS,
    BLAKE3 as BLAKE3,
    SHA256 as SHA256,
    ContentAddress as ContentAddress,
    Digest as Digest,
)
from ._limits import (
    DATA_SIZE as DATA_SIZE,
    DISCARD_TIMEOUT as DISCARD_TIMEOUT,
    MAX_BACKENDS as MAX_BACKENDS,
    MAX_BATCH as MAX_BATCH,
    MAX_CONTROL_SIZE as MAX_CONTROL_SIZE,
    MAX_DATA_SIZE as MAX_DATA_SIZE,
    MAX_DEPTH as MAX_DEPTH,
    MAX_DISCARD as MAX_DISCARD,
    MAX_INTEGER as MAX_INTEGER,
    PROTOCOL_VERSION as PROTOCOL_VERSION,
    STALL_TIMEOUT as STALL_TIMEOUT,
)
from ._messages import (
    INGEST_FD as INGEST_FD,
    SERVE_FD as SERVE_FD,
    BodyKind as BodyKind,
    End as End,
    Failure as Failure,
    Hello as Hello,
    Message as Message,
    Ok as Ok,
    Request as Request,
    message_from_wire as message_from_wire,
)
from ._ranges import (
    check_range as check_range,
    resolve_range as resolve_range,
)
from ._results import (
    ServeResult as ServeResult,
    backend_list_from_wire as backend_list_from_wire,
    backend_list_to_wire as backend_list_to_wire,
    backend_status_from_wire as backend_status_from_wire,
    backend_status_to_wire as backend_status_to_wire,
    deletion_result_from_wire as deletion_result_from_wire,
    deletion_result_to_wire as deletion_result_to_wire,
    ingest_result_from_wire as ingest_result_from_wire,
    ingest_result_to_wire as ingest_result_to_wire,
    object_page_from_wire as object_page_from_wire,
    object_page_to_wire as object_page_to_wire,
    stat_result_from_wire as stat_result_from_wire,
    stat_result_to_wire as stat_result_to_wire,
    verify_result_from_wire as verify_result_from_wire,
    verify_result_to_wire as verify_result_to_wire,
)
from ._spi import (
    DataPlane as DataPlane,
    ExpectedDigest as ExpectedDigest,
    FullDataPlane as FullDataPlane,
    IngestHints as IngestHints,
    IngestResult as IngestResult,
    ObjectStream as ObjectStream,
    VerifyResult as VerifyResult,
)
from ._storage import (
    BackendList as BackendList,
    BackendState as BackendState,
    BackendStatus as BackendStatus,
    DeletionResult as DeletionResult,
    IngestOutcome as IngestOutcome,
    ObjectPage as ObjectPage,
    ObjectState as ObjectState,
    ObjectStatus as ObjectStatus,
    StorageReceipt as StorageReceipt,
)
from ._usual import (
    UsualCall as UsualCall,
    UsualDelete as UsualDelete,
    UsualIngest as UsualIngest,
    UsualServe as UsualServe,
    UsualStat as UsualStat,
    read_usual as read_usual,
)
from ._usual_answers import (
    usual_delete_answer as usual_delete_answer,
    usual_ingest_answer as usual_ingest_answer,
    usual_object_entry as usual_object_entry,
    usual_serve_answer as usual_serve_answer,
    usual_stat_answer as usual_stat_answer,
)
from ._version import (
    __version__ as __version__,
)
