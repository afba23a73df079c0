"""MLflow's failures, and those of its backends, as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from infra.addresses import without_password
from infra.errors import BadInput, NotFound, RequantError, Unavailable

_NOT_FOUND = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_BAD_INPUT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_TAKEN = {"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}
_LONGEST = 300  # characters of a vendor's message that are shown


@contextlib.contextmanager
def translated(uri: str, doing: str) -> Iterator[None]:
    """Turn whatever MLflow and its backends raise inside the block into our errors, chained.

    Args:
        uri: The registry's address; its password is not shown.
        doing: What the block does, as a verb with its object: "read the aliases of minilm".

    Raises:
        NotFound: There is no such thing.
        BadInput: It was not accepted.
        Unavailable: Everything else.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    vendors = (
        MlflowException,
        RequestException,
        SQLAlchemyError,
        Boto3Error,
        BotoCoreError,
        ClientError,
        OSError,
    )
    try:
        yield
    except vendors as error:
        code = getattr(error, "error_code", "")
        raise _translation(error, code, without_password(uri), doing) from error


def _translation(error: Exception, code: str, uri: str, doing: str) -> RequantError:
    text = " ".join(str(error).split())[:_LONGEST]
    failed = f"The registry {uri} could not {doing}"
    if code in _NOT_FOUND:
        return NotFound(f"{failed}, because there is no such thing ({text}): check the name.")
    if code in _BAD_INPUT:
        return BadInput(f"{failed}, because it did not accept it ({text}): correct it.")
    return Unavailable(f"{failed} ({text}): check that it and its file store are up.")


@contextlib.contextmanager
def unless_taken() -> Iterator[None]:
    """Pass over that somebody else made the same thing first, which is as good."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _TAKEN:
            raise
