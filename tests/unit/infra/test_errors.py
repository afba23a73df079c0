"""Every error of a vendor comes out as one of ours, with the vendor's chained behind it."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Iterator
from pathlib import Path

import boto3.exceptions
import botocore.exceptions
import pytest
import requests
import sqlalchemy.exc

from infra import errors
from infra.errors import AlreadyExists, BadInput, NotFound, RequantError, Unavailable
from infra.registry.vendor_errors import translated
from infra.stores import s3
from infra.stores.local import LocalStore

OURS = [one for _, one in inspect.getmembers(errors, inspect.isclass)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(s3, "_FIRST_PAUSE", 0.0)


def bare(kind: type[Exception]) -> Exception:
    """Make an instance without running its constructor, whatever arguments that wants."""
    return kind.__new__(kind)


def all_of(module: object, *bases: type[Exception]) -> list[type[Exception]]:
    return [one for _, one in inspect.getmembers(module, inspect.isclass) if issubclass(one, bases)]


def test_the_tree_in_the_docstring_shows_every_error() -> None:
    assert all(one.__name__ in (errors.__doc__ or "") for one in OURS)
    assert all(issubclass(one, RequantError) for one in OURS)


def test_exit_codes_tell_a_no_from_a_failure() -> None:
    codes = {one.__name__: one.exit_code for one in OURS if issubclass(one, RequantError)}
    assert {name for name, code in codes.items() if code == 1} == {
        "Refused",
        "NotAllowed",
        "AlreadyExists",
    }


# --- the folder -----------------------------------------------------------------------------------
# --------------------


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_failure_of_the_operating_system_istranslated(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, "said the system")

    store = LocalStore(str(tmp_path))
    for name in ("read_bytes", "replace", "is_file", "unlink"):
        monkeypatch.setattr(Path, name, fails)
    monkeypatch.setattr("os.link", fails)
    for attempt in (
        lambda: store.get("k"),
        lambda: store.put("k", b""),
        lambda: store.create("k", b""),
    ):
        with pytest.raises((Unavailable, NotFound, AlreadyExists)) as caught:
            attempt()
        assert isinstance(caught.value.__cause__, OSError)


# --- S3 -------------------------------------------------------------------------------------------
# --------------------


class FailingClient:
    """Raises the same error whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fail(self, **_: object) -> None:
        raise self.error

    get_object = put_object = head_object = delete_object = fail

    def get_paginator(self, _: str) -> FailingClient:
        return self

    def paginate(self, **_: object) -> Iterator[dict[str, object]]:
        raise self.error


def failing_store(error: Exception, monkeypatch: pytest.MonkeyPatch) -> s3.S3Store:
    monkeypatch.setattr(s3, "_client", lambda *_, **__: FailingClient(error))
    return s3.S3Store("s3://bucket")


@pytest.mark.parametrize("kind", all_of(botocore.exceptions, botocore.exceptions.BotoCoreError))
def test_every_botocore_error_is_unavailable(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = failing_store(bare(kind), monkeypatch)
    for attempt in (
        lambda: store.get("k"),
        lambda: store.put("k", b""),
        lambda: store.create("k", b""),
        lambda: store.exists("k"),
        lambda: list(store.list("")),
        lambda: store.delete("k"),
    ):
        with pytest.raises(Unavailable) as caught:
            attempt()
        assert isinstance(caught.value.__cause__, kind)


ANSWERS = [
    ("NoSuchKey", 404, NotFound, Unavailable),
    ("NoSuchBucket", 404, Unavailable, Unavailable),
    ("AccessDenied", 403, Unavailable, Unavailable),
    ("InvalidAccessKeyId", 403, Unavailable, Unavailable),
    ("PreconditionFailed", 412, Unavailable, AlreadyExists),
    ("ConditionalRequestConflict", 409, Unavailable, Unavailable),
    ("SlowDown", 503, Unavailable, Unavailable),
    ("InternalError", 500, Unavailable, Unavailable),
    ("SomethingNew", 418, Unavailable, Unavailable),
]


@pytest.mark.parametrize(("code", "status", "on_get", "on_create"), ANSWERS)
def test_every_answer_of_s3_istranslated(
    code: str,
    status: int,
    on_get: type[Exception],
    on_create: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = botocore.exceptions.ClientError(answer, "Operation")  # type: ignore[arg-type]  # its type wants every field
    store = failing_store(error, monkeypatch)
    with pytest.raises(on_get):
        store.get("k")
    if on_get is not NotFound:
        with pytest.raises(on_create) as caught:
            store.create("k", b"")
        assert caught.value.__cause__ is error


# --- MLflow and what lies under it
# ------------------------------------------------------------------------------------


def translation(error: Exception) -> RequantError:
    with pytest.raises(RequantError) as caught, translated("http://user:secret@host", "do this"):
        raise error
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)
    assert "do this" in str(caught.value)
    return caught.value


def test_every_error_code_of_mlflow_istranslated() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    found = {
        name: type(translation(MlflowException("text", ErrorCode.Value(name))))
        for name, _ in ErrorCode.items()
    }
    assert {name for name, kind in found.items() if kind is NotFound} == {
        "RESOURCE_DOES_NOT_EXIST",
        "NOT_FOUND",
    }
    assert {name for name, kind in found.items() if kind is BadInput} == {
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
    }
    assert set(found.values()) == {NotFound, BadInput, Unavailable}


def test_every_exception_class_of_mlflow_istranslated() -> None:
    import mlflow.exceptions

    kinds = all_of(mlflow.exceptions, Exception)
    assert all(issubclass(kind, mlflow.exceptions.MlflowException) for kind in kinds)


UNDER_MLFLOW = [
    *all_of(requests.exceptions, requests.RequestException),
    *all_of(sqlalchemy.exc, sqlalchemy.exc.SQLAlchemyError),
    *all_of(boto3.exceptions, boto3.exceptions.Boto3Error),
    OSError,
    ConnectionRefusedError,
    TimeoutError,
]


@pytest.mark.parametrize("kind", UNDER_MLFLOW)
def test_every_error_under_mlflow_is_unavailable(kind: type[Exception]) -> None:
    class Said(kind):  # type: ignore[misc, valid-type]  # one of many bases
        def __str__(self) -> str:
            return "text"

    assert isinstance(translation(bare(Said)), Unavailable)


def test_our_own_errors_pass_through_unchanged() -> None:
    with pytest.raises(BadInput, match=r"^mine$"), translated("http://host", "do this"):
        raise BadInput("mine")
