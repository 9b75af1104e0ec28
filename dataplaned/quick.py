"""Usual calls carried to a backend that can do them at once, and their answers.

It is the short way of what `Session` and `LocalDataPlane` do together, for the calls that
come by the thousand. It refuses nothing and raises nothing: what is not plain success goes the
ordinary way.
"""

from collections.abc import Callable, Mapping
from typing import Final

from dataplane_protocol import (
    BLAKE3,
    SHA256,
    Operation,
    UsualCall,
    UsualDelete,
    UsualIngest,
    UsualServe,
    UsualStat,
    usual_delete_answer,
    usual_ingest_answer,
    usual_serve_answer,
    usual_stat_answer,
)

from .access import ROLE_OF, Role
from .backends.base import Backend
from .backends.quick import QuickBackend, QuickRead, QuickReceipt
from .calls import Call, outcome_of_delete
from .digests import Digester
from .lobby import Answer
from .plane import LocalDataPlane
from .roster import Seat

#: What each usual call is, and what it asks for.
_OPERATIONS: Final[Mapping[type[UsualCall], tuple[str, Role]]] = {
    kind: (operation.value, ROLE_OF[operation])
    for kind, operation in (
        (UsualStat, Operation.STAT_OBJECTS),
        (UsualServe, Operation.SERVE_OBJECT),
        (UsualIngest, Operation.INGEST_STREAM),
        (UsualDelete, Operation.DELETE_OBJECT),
    )
}


class QuickCalls:
    """Answers for a `Lobby`.

    Args:
        plane: Whose backends to ask.
    """

    def __init__(self, plane: LocalDataPlane) -> None:
        self._plane = plane

    def __call__(self, seat: Seat, call: UsualCall, done: Callable[[Answer], None]) -> bool:
        """See `Answering`."""
        backend = self._plane.find_backend(call.backend_id)
        op, role = _OPERATIONS[type(call)]
        if backend is None or backend.quick is None or not seat.may(role):
            return False
        record = seat.begin(op)
        record.backend_id = backend.backend_id

        def finish(answer: Answer) -> None:
            if answer is None:
                seat.withdraw()
            else:
                # Before it is sent: the next call may be looked at meanwhile.
                seat.end(record)
            done(answer)

        if seat.has_room() and self._carry_out(backend, backend.quick, call, record, finish):
            return True
        seat.withdraw()
        return False

    def _carry_out(
        self,
        backend: Backend,
        quick: QuickBackend,
        call: UsualCall,
        record: Call,
        done: Callable[[Answer], None],
    ) -> bool:
        match call:
            case UsualStat():
                return _stat(quick, call, done)
            case UsualServe():
                return _serve(quick, call, record, done)
            case UsualIngest():
                return self._ingest(backend, quick, call, record, done)
            case UsualDelete():
                return _delete(backend, quick, call, record, done)

    def _ingest(
        self,
        backend: Backend,
        quick: QuickBackend,
        call: UsualIngest,
        record: Call,
        done: Callable[[Answer], None],
    ) -> bool:
        if not self._plane.allows(max(len(call.content), call.size_hint or 0)):
            return False
        digester = Digester()
        digester.update((call.content,))
        digests = digester.finish()
        names = {
            BLAKE3: f"{BLAKE3}:{digests.blake3.hex()}",
            SHA256: f"{SHA256}:{digests.sha256.hex()}",
        }
        if call.digest is not None and call.digest not in names.values():
            return False
        primary = names[call.primary_algorithm or BLAKE3]
        record.address = primary
        record.received_bytes = digests.size

        def answer(receipt: QuickReceipt | None) -> None:
            if receipt is None:
                done(None)
                return
            record.outcome = receipt.outcome
            frame = usual_ingest_answer(
                primary=primary,
                sha256=names[SHA256],
                size=digests.size,
                backend_id=backend.backend_id,
                outcome=receipt.outcome,
                generation=receipt.generation,
                stored_at_ms=receipt.stored_at_ms,
            )
            done((frame,))

        return quick.ingest(call.content, digests, answer)


def _stat(quick: QuickBackend, call: UsualStat, done: Callable[[Answer], None]) -> bool:
    def answer(entries: list[bytes] | None) -> None:
        done(None if entries is None else (usual_stat_answer(entries),))

    return quick.stat(call.addresses, answer)


def _serve(
    quick: QuickBackend, call: UsualServe, record: Call, done: Callable[[Answer], None]
) -> bool:
    record.address = call.address

    def answer(read: QuickRead | None) -> None:
        if read is None:
            done(None)
            return
        record.sent_bytes = len(read.content)
        is_whole = len(read.content) == read.size
        stated = call.address if is_whole else None
        done(usual_serve_answer(read.size, read.offset, read.content, stated))

    return quick.read(call.address, call.byte_range, answer)


def _delete(
    backend: Backend,
    quick: QuickBackend,
    call: UsualDelete,
    record: Call,
    done: Callable[[Answer], None],
) -> bool:
    record.address = call.address

    def answer(deleted: bool | None) -> None:  # noqa: FBT001 - as `QuickBackend` calls it
        if deleted is None:
            done(None)
            return
        record.outcome = outcome_of_delete(deleted=deleted)
        done((usual_delete_answer(call.address, backend.backend_id, deleted=deleted),))

    return quick.delete(call.address, call.if_generation, answer)
