"""Triton's extensions of the Open Inference Protocol that would change an answer.

They are refused: whoever asks for one would take another answer for it. Source:
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infra.errors import BadInput

_REFUSED: Mapping[str, str] = {
    "classification": "answers come as tensors, and not as classes",
    "shared_memory_region": "tensors are sent, and not shared by memory",
    "sequence_id": "no request belongs to a sequence",
}


def require_known(place: str, parameters: Iterable[str]) -> None:
    """Raise `BadInput` where the parameters of a place, such as "input x", ask for one."""
    name = next((name for name in _REFUSED if name in parameters), None)
    if name is not None:
        raise BadInput(f"the {place} has the parameter {name}: {_REFUSED[name]} here")
