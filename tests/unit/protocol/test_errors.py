import pickle

import pytest

import dataplane_protocol
from dataplane_protocol import (
    ERRORS_BY_CODE,
    DataPlaneError,
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    ObjectNotFoundError,
    ProtocolError,
    RemoteProtocolError,
    UnavailableError,
    error_from_code,
)

CLASSES = [
    value
    for value in vars(dataplane_protocol).values()
    if isinstance(value, type) and issubclass(value, DataPlaneError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_and_advice(kind):
    error = kind("what happened")
    assert isinstance(error, DataPlaneError)
    assert (error.code, error.retry, error.details) == (kind.default_code, kind.default_retry, {})
    assert str(error) == error.message == "what happened"
    assert error.args == ("what happened",)


def test_only_what_is_unavailable_is_worth_a_retry_by_itself():
    assert [code for code, kind in ERRORS_BY_CODE.items() if kind.default_retry] == ["unavailable"]


def test_every_code_has_one_class():
    assert {kind.default_code for kind in CLASSES} == set(ERRORS_BY_CODE)
    for code, kind in ERRORS_BY_CODE.items():
        assert kind.default_code == code


def test_an_error_without_a_message_shows_its_code():
    assert str(UnavailableError()) == "unavailable"
    assert str(DataPlaneError(code="no_such_code")) == "no_such_code"


@pytest.mark.parametrize("code", ERRORS_BY_CODE)
def test_a_known_code_becomes_its_class(code):
    error = error_from_code(code, "why", retry=True, details={"size_bytes": 1})
    assert type(error) is ERRORS_BY_CODE[code]
    assert (error.code, error.message, error.retry) == (code, "why", True)
    assert error.details == {"size_bytes": 1}


def test_an_unknown_code_is_kept_with_its_advice():
    error = error_from_code("no_such_code", "why", retry=True)
    assert type(error) is DataPlaneError
    assert (error.code, error.retry, error.details) == ("no_such_code", True, {})


def test_advice_of_the_peer_goes_before_the_default():
    assert error_from_code("unavailable", "", retry=False).retry is False
    assert UnavailableError(retry=False).retry is False


def test_details_are_a_copy():
    details = {"size_bytes": 1}
    error = DataPlaneError(details=details)
    details.clear()
    assert error.details == {"size_bytes": 1}


def test_errors_are_the_builtin_ones_that_callers_expect():
    assert issubclass(InvalidRequestError, ValueError)
    assert issubclass(ObjectNotFoundError, LookupError)


def test_a_violation_that_the_peer_reports_is_ours():
    assert isinstance(error_from_code("protocol", "", retry=False), LocalProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)


def test_a_plain_error_and_an_internal_one_have_the_same_code():
    assert DataPlaneError().code == InternalError().code == "internal"


def test_an_error_survives_another_process():
    error = error_from_code("no_such_code", "why", retry=True, details={"a": 1})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.message, copy.retry, copy.details) == (
        DataPlaneError,
        "no_such_code",
        "why",
        True,
        {"a": 1},
    )


def test_every_class_of_the_tree_is_drawn_in_the_docstring():
    from dataplane_protocol import _errors

    for kind in CLASSES:
        assert kind.__name__ in _errors.__doc__
