"""Types of the names that pass between functions, so that one is not taken for another."""

import re
from typing import NewType

Key = NewType("Key", str)
"""The name of an object in the store, as `infra.stores.layout` makes it."""
Digest = NewType("Digest", str)
"""A SHA-256 in hexadecimal, all 64 digits or the first of them."""
ModelName = NewType("ModelName", str)
"""The name that a model is registered under."""
RequestId = NewType("RequestId", str)
"""The id that a request was served under."""
RunId = NewType("RunId", str)
"""The id of a run of MLflow or Prefect."""

_MARK = re.compile(r"~[0-9a-f]{8}(/[0-9]+)?\Z")


def marked(request_id: str) -> tuple[str, str]:
    """Return a caller's id and the mark that the gateway sets behind it; "" where there is none.

    With the mark an id that a caller uses twice names two requests: "order-7~5f3a9c01/3" is row 3
    of one that was sent as "order-7".
    """
    mark = _MARK.search(request_id)
    return (request_id[: mark.start()], mark[0]) if mark else (request_id, "")
