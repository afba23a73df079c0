"""Language models that come as one GGUF file: weights, tokenizer and chat template together.

Quantized weights are read back to floats, as transformers does: full precision is then what the
file holds (https://huggingface.co/docs/transformers/gguf).
"""

import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import BadInput
from tasks.models.language.chat_template import dump_chat_template

SUFFIX = ".gguf"


def is_gguf(source: Path) -> bool:
    """Return whether a source is one GGUF file."""
    return source.is_file() and source.suffix == SUFFIX


def where_from(source: Path) -> Mapping[str, str]:
    """Return how transformers' `from_pretrained` is told of a folder, or of a GGUF file."""
    if not is_gguf(source):
        return {"pretrained_model_name_or_path": str(source)}
    return {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the reader's progress bars to itself."""
    loggers = logging.getLogger("transformers.modeling_gguf_pytorch_utils")
    level = loggers.level
    loggers.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        loggers.setLevel(level)


def weights_in_float32(source: Path) -> int:
    """Return the bytes that a file's tensors take in float32; raise `BadInput` for no GGUF."""
    try:
        from gguf import GGUFReader
    except ImportError as exc:
        raise BadInput(
            "source: reading a GGUF file needs a library: pip install 'requant[gguf]'"
        ) from exc
    try:
        tensors = GGUFReader(source).tensors
        _require_readable(source, tensors)
        return sum(4 * math.prod(map(int, item.shape)) for item in tensors)
    except (OSError, ValueError, KeyError, IndexError) as exc:
        raise BadInput(
            f"source: {source} is no readable GGUF file ({' '.join(str(exc).split())[:200]}): "
            "copy it again"
        ) from exc


def _require_readable(source: Path, tensors: Sequence[Any]) -> None:
    """Raise `BadInput` naming a tensor in a type that nobody here turns into floats."""
    from gguf import GGML_QUANT_SIZES, dequantize

    for kind, name in {item.tensor_type: item.name for item in tensors}.items():
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except (NotImplementedError, KeyError) as exc:
            raise BadInput(
                f"source: {source} holds {name} in {kind.name}, which is not read: convert it to "
                "Q8_0 or F16, or bring the folder that it was made from"
            ) from exc


def tokenizer_of(source: Path) -> bytes:
    """Return the tokenizer in the `tokenizers` JSON format; raises `BadInput` without one."""
    return bytes(_tokenizer(source).backend_tokenizer.to_str().encode())


def chat_template_of(source: Path) -> bytes | None:
    """Return the chat template as a registration keeps it; None without one."""
    tokenizer = _tokenizer(source)
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return None
    return dump_chat_template(template, tokenizer.special_tokens_map)


@lru_cache(maxsize=1)
def _tokenizer(source: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(**where_from(source), trust_remote_code=False)
            json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as exc:  # transformers raises its own kinds, and gguf others
        raise BadInput(
            f"source: the tokenizer in {source} cannot be read "
            f"({' '.join(str(exc).split())[:200]}): put tokenizer.json beside it and name it as "
            "input.tokenizer"
        ) from exc
    return tokenizer
