"""What a registered model cannot read, told before a run meets it.

It needs no graph: traffic is brought in without loading the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from infra.errors import BadInput
from tasks.models.custom.inputs import RecordInputs
from tasks.models.language.chat_template import parse_chat_template
from tasks.models.language.tokens import open_tokenizer, require_readable
from tasks.payloads import describe
from tasks.records import Payload
from tasks.specs.spec import ModelSpec, Task
from tasks.specs.tensors import RecordLayout
from tasks.specs.traits import TRAITS


def refusal_of(
    spec: ModelSpec, tokenizer: bytes | None, template: bytes | None, layout: RecordLayout | None
) -> Callable[[Payload], str | None]:
    """Return what says why the model cannot read a payload; None where it can.

    Args:
        spec: the model's.
        tokenizer: the content of its tokenizer.json.
        template: its chat template, as `read_chat_template` kept it.
        layout: what a graph with inputs of its own reads.
    """
    require = _requirement(spec, tokenizer, template, layout)

    def refusal(payload: Payload) -> str | None:
        try:
            require(payload)
        except BadInput as exc:
            return str(exc)
        return None

    return refusal


def _requirement(
    spec: ModelSpec, tokenizer: bytes | None, template: bytes | None, layout: RecordLayout | None
) -> Callable[[Payload], object]:
    if layout is not None:
        return RecordInputs(layout, (), tokenizer).record
    if TRAITS[spec.task].reads != "text":
        return partial(_require_shape, spec.payload_shape)
    if spec.task is not Task.CAUSAL_LM or tokenizer is None:
        return _text
    read = partial(
        require_readable,
        open_tokenizer(tokenizer),
        None if template is None else parse_chat_template(template),
    )
    return lambda payload: read(_text(payload))


def _text(payload: Payload) -> str:
    if not isinstance(payload, str):
        raise BadInput(f"the model reads texts, and was given {describe(payload)}")
    return payload


def _require_shape(shape: tuple[int, ...] | None, payload: Payload) -> None:
    """Refuse another shape than the model's; -1 takes any size."""
    sizes = payload.shape if isinstance(payload, np.ndarray) else None
    fits = sizes is not None and (
        shape is None
        or (
            len(sizes) == len(shape)
            and all(want in (-1, size) for size, want in zip(sizes, shape, strict=True))
        )
    )
    if not fits:
        wanted = "tensors" if shape is None else f"tensors of shape {list(shape)}"
        raise BadInput(f"the model reads {wanted}, and was given {describe(payload)}")
