"""All steps of a spec, one after the other, and their digest."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version as installed
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.canonical import canonical, sha256
from infra.errors import BadInput, RequantError
from infra.settings import settings
from tasks.preprocess import steps
from tasks.preprocess.decoding import decode_audio, decode_image
from tasks.records import Payload, Record
from tasks.specs.preprocess import (
    Frames,
    LogMel,
    Normalise,
    OwnStep,
    Pad,
    PreprocessSpec,
    Resize,
    Tokenize,
)
from tasks.specs.tensors import RecordLayout
from tasks.trusted_code import load_function, source_digest, trusted_places

_LIBRARIES = {"image": "pillow", "audio": "scipy", "text": "tokenizers"}


def is_raw(payload: Payload, layout: RecordLayout) -> bool:
    """Return whether a payload is what a user sent, and no tensors of the graph's inputs."""
    rules = layout.preprocess
    if rules is None:
        return False
    if rules.reads == "text":
        return isinstance(payload, str)
    return isinstance(payload, Mapping) and set(payload) == {rules.reads}


def digest_of(rules: PreprocessSpec) -> str:
    """Return a digest of the steps, of trusted functions' files and of the library's version."""
    trusted = trusted_places(settings().trusted_metrics)
    own = [
        source_digest(step.function, trusted) for step in rules.steps if isinstance(step, OwnStep)
    ]
    library = installed(_LIBRARIES[rules.reads])
    return sha256(canonical({"steps": rules.model_dump(mode="json"), "own": own, "by": library}))


class Preparation:
    """The way from what users send to a graph's inputs."""

    def __init__(self, layout: RecordLayout, tokenizer: bytes | None) -> None:
        if layout.preprocess is None:
            raise BadInput("the spec has no preprocess: bring tensors")
        self._layout, self._rules, self._bytes = layout, layout.preprocess, tokenizer

    def record(self, payload: Payload) -> Record:
        """Return the graph's inputs.

        Raises:
            BadInput: for what cannot be read, or a step that fails.
        """
        value = self._decoded(payload)
        for step in self._rules.steps:
            value = self._applied(step, value)
        if isinstance(value, Mapping):
            return {name: self._typed(name, item) for name, item in value.items()}
        name = self._rules.to or next(iter(self._layout.tensors))
        return {name: self._typed(name, value)}

    def _decoded(self, payload: Payload) -> steps.Value:
        if isinstance(payload, str):
            return payload
        if not isinstance(payload, Mapping):
            return payload
        data = np.asarray(payload[self._rules.reads]).tobytes()
        if self._rules.reads == "image":
            return decode_image(data, self._rules.channels)
        wave, rate = decode_audio(data)
        wanted = next((step.rate for step in self._rules.steps if isinstance(step, LogMel)), rate)
        if rate != wanted:
            raise BadInput(f"the sound has {rate} samples a second, and log-mel reads {wanted}")
        return wave

    def _applied(self, step: Any, value: steps.Value) -> steps.Value:
        try:
            return self._step(step, value)
        except RequantError:
            raise
        except (Exception, SystemExit) as exc:  # what a step, or a user's function, cannot take
            line = " ".join(str(exc).split())[:200]
            kind = "" if step.step != "function" else f" {step.function}"
            raise BadInput(
                f"preprocess step {step.step}{kind} failed ({type(exc).__name__}): {line}"
            ) from exc

    def _step(self, step: Any, value: steps.Value) -> steps.Value:
        if isinstance(step, Tokenize):
            return self._tokens(step, str(value))
        if isinstance(step, OwnStep):
            with contextlib.redirect_stdout(sys.stderr):
                return self._functions[step.function](value)  # type: ignore[no-any-return]
        array = np.asarray(value)
        if isinstance(step, Resize):
            return steps.resize(array, step)
        if isinstance(step, Pad):
            return steps.pad(array, step)
        if isinstance(step, Normalise):
            return steps.normalise(array, step)
        if isinstance(step, Frames):
            return steps.frames(array, step)
        return steps.log_mel(array, step)

    @cached_property
    def _functions(self) -> Mapping[str, Any]:
        trusted = trusted_places(settings().trusted_metrics)
        names = [step.function for step in self._rules.steps if isinstance(step, OwnStep)]
        return {name: load_function(name, trusted) for name in names}

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        if self._bytes is None:
            raise BadInput("input.tokenizer is missing: the step tokenize needs its tokenizer.json")
        return Tokenizer.from_str(self._bytes.decode())

    def _tokens(self, step: Tokenize, text: str) -> Mapping[str, NDArray[np.generic]]:
        ids = self._tokenizer.encode(text).ids
        if step.length is not None:
            ids = ids[: step.length]
        fill = max(0, (step.length or 0) - len(ids))
        tokens = {step.ids: np.array([*ids, *[0] * fill], np.int64)}
        if step.mask is not None:
            tokens[step.mask] = np.array([1] * len(ids) + [0] * fill, np.int64)
        return tokens

    def _typed(self, name: str, value: object) -> NDArray[np.generic]:
        layout = self._layout.tensors.get(name)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise BadInput(
                f"the preprocess steps gave {type(value).__name__}, not numbers, "
                f"as the input {name}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadInput(f"the preprocess steps gave NaN or infinity for the input {name}")
        return array if layout is None else array.astype(layout.dtype)
