"""Types of the names that pass between functions, so that one is not taken for another."""

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
