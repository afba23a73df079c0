"""The peers' calls, exactly as they were made.

Every peer gets our full-precision graph and our calibration texts.
"""

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
)
from onnxruntime.quantization import quantize_static as ort_quantize_static

from benchmarks.harness import ours
from benchmarks.harness.subject import Subject
from benchmarks.peers import toolkits
from infra.engines.port import Arrays
from tasks.specs.spec import Task

FP32, OURS = "FP32", "Requant int8-smooth"
MATMULS = ["MatMul", "Gemm", "Conv"]
TENSORRT_BEST: Mapping[str, Any] = {
    "op_types_to_quantize": MATMULS,
    "per_channel": True,
    "extra_options": {
        "ActivationSymmetric": True,
        "MatMulConstBOnly": True,
        "OpTypesToExcludeOutputQuantization": MATMULS,
        "QuantizeBias": False,  # TensorRT refuses INT32 biases
    },
}
"""What TensorRT can express.

It is symmetric, for matrix products with constant weights only, with nothing on their outputs.
"""
CPU_BEST: Mapping[str, Any] = {
    "activation_type": QuantType.QUInt8,
    "op_types_to_quantize": MATMULS,
    "per_channel": True,
    "extra_options": {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": MATMULS},
}
"""The same with asymmetric U8 activations, the form that ONNX Runtime fuses on x86."""

OLIVE_BEST: Mapping[str, Any] = {
    "activation_symmetric": True,
    "per_channel": True,
    "op_types_to_quantize": MATMULS,
    "extra_options": {
        "MatMulConstBOnly": True,
        "OpTypesToExcludeOutputQuantization": MATMULS,
        "QuantizeBias": False,
    },
}
DYNAMIC_BEST: Mapping[str, Any] = {
    "op_types_to_quantize": MATMULS,
    "per_channel": True,
    "extra_options": {"MatMulConstBOnly": True},
}
"""Embeddings stay in floating point, and weights get a scale per output channel."""


@dataclass(frozen=True, slots=True, eq=False)
class Graphs:
    """The graphs that a contender wrote."""

    cpu: bytes  # for ONNX Runtime
    gpu: bytes  # for TensorRT; the same graph for every peer
    seconds: float  # calibration and graph together


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to quantize a subject; `make` raises whatever the peer raises."""

    name: str
    make: Callable[[Subject], bytes]
    quick: bool = True  # part of a quick run
    # Leaves ONNX Runtime's own quantizer changed in this process, so it goes last.
    patches: bool = False


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Batches for the ONNX Runtime calibrators.

    They are addressable by position, for `CalibStridedMinMax`.
    """

    def __init__(self, batches: Iterable[Arrays]) -> None:
        self._batches = [dict(feeds) for feeds in batches]
        self._left = iter(self._batches)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Start over with a part of the batches."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None at the end."""
        return next(self._left, None)


def quantize_static(
    subject: Subject, batches: Iterable[Arrays], options: Mapping[str, Any]
) -> bytes:
    """Call `onnxruntime.quantization.quantize_static` on the exported graph."""
    with _files(subject) as (source, target):
        ort_quantize_static(str(source), str(target), Reader(batches), **options)
        return target.read_bytes()


def dynamic(options: Mapping[str, Any]) -> Callable[[Subject], bytes]:
    """Return a call of `onnxruntime.quantization.quantize_dynamic`, which needs no calibration."""

    def make(subject: Subject) -> bytes:
        with _files(subject) as (source, target):
            quantize_dynamic(str(source), str(target), **options)
            return target.read_bytes()

    return make


def static(options: Mapping[str, Any], *, padded: bool = False) -> Callable[[Subject], bytes]:
    """Return a static contender.

    The histogram methods fail on batches of unequal lengths, so those are padded.
    """
    return lambda subject: quantize_static(
        subject, subject.padded() if padded else subject.batches(), options
    )


def strided(options: Mapping[str, Any]) -> Callable[[Subject], bytes]:
    """Return a call of the histogram methods, one batch at a time.

    It is the only way to give them unpadded texts, and their fastest.
    """
    extra = {**options.get("extra_options", {}), "CalibStridedMinMax": 1}
    return static({**options, "extra_options": extra})


def modelopt_onnx(method: str | None) -> Callable[[Subject], bytes]:
    """Return a call of `modelopt.onnx.quantization.quantize`.

    A method of None is its default, entropy.
    """

    def make(subject: Subject) -> bytes:
        from modelopt.onnx.quantization import quantize  # type: ignore[import-untyped]

        batches = subject.padded()
        data = {name: np.concatenate([feeds[name] for feeds in batches]) for name in batches[0]}
        rows = min(len(feeds[next(iter(feeds))]) for feeds in batches)
        shapes = ",".join(
            f"{name}:{'x'.join(map(str, (rows, *value.shape[1:])))}" for name, value in data.items()
        )
        with _files(subject) as (source, target):
            quantize(
                str(source),
                quantize_mode="int8",
                calibration_data=data,
                calibration_method=method,
                calibration_shapes=shapes,
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                output_path=str(target),
                log_level="ERROR",
            )
            return target.read_bytes()

    return make


def modelopt_torch(config: str) -> Callable[[Subject], bytes]:
    """Return a call of `modelopt.torch.quantization.quantize`, then of the legacy exporter.

    Of PyTorch's exporters it is the one that takes modelopt's modules.
    """

    def make(subject: Subject) -> bytes:
        import modelopt.torch.quantization as mtq  # type: ignore[import-untyped]
        import torch

        module, batches = _module(subject), subject.batches()
        names = [name for name in ("input_ids", "attention_mask", "image") if name in batches[0]]

        def forward(model: Any) -> None:
            with torch.no_grad():
                for feeds in batches:
                    model(*(torch.from_numpy(feeds[name]) for name in names))

        mtq.quantize(module, getattr(mtq, config), forward)
        probe = tuple(torch.from_numpy(batches[0][name][:2]) for name in names)
        axes = {
            name: {0: "batch", 1: "tokens"} if batches[0][name].ndim == 2 else {0: "batch"}
            for name in names
        }
        with _files(subject) as (_, target):
            torch.onnx.export(
                module,
                probe,
                str(target),
                dynamo=False,
                opset_version=20,
                input_names=names,
                output_names=[subject.inputs.output],
                dynamic_axes=axes,
            )
            return target.read_bytes()

    return make


PERCENTILE = {"calibrate_method": CalibrationMethod.Percentile}
PEERS = (
    Contender("ORT quantize_static, defaults", static({})),
    Contender(
        "ORT quantize_static, symmetric",
        static({"extra_options": {"ActivationSymmetric": True}}),
        quick=False,
    ),
    Contender("ORT quantize_static, percentile", static(PERCENTILE, padded=True), quick=False),
    Contender("ORT quantize_static, MatMul inputs, symmetric S8", static(TENSORRT_BEST)),
    Contender(
        "ORT quantize_static, MatMul inputs, symmetric S8, percentile",
        strided({**TENSORRT_BEST, **PERCENTILE}),
        quick=False,
    ),
    Contender("ORT quantize_static, MatMul inputs, asymmetric U8", static(CPU_BEST), quick=False),
    Contender("ORT quantize_dynamic, defaults", dynamic({})),
    Contender("ORT quantize_dynamic, MatMul, per channel", dynamic(DYNAMIC_BEST), quick=False),
    Contender("Olive static, defaults", toolkits.olive({}), quick=False),
    Contender("Olive static, MatMul inputs, symmetric", toolkits.olive(OLIVE_BEST), quick=False),
    # modelopt's ONNX path leaves ONNX Runtime's quantizer changed in the process, and Olive's then
    # fails.
    Contender("modelopt onnx, defaults (entropy)", modelopt_onnx(None), quick=False),
    Contender("modelopt onnx, max", modelopt_onnx("max")),
    Contender("modelopt torch INT8_DEFAULT_CFG", modelopt_torch("INT8_DEFAULT_CFG"), quick=False),
    Contender(
        "modelopt torch INT8_SMOOTHQUANT_CFG", modelopt_torch("INT8_SMOOTHQUANT_CFG"), quick=False
    ),
    Contender("NNCF, defaults", toolkits.nncf(transformer=False, symmetric=False), quick=False),
    Contender("NNCF, transformer", toolkits.nncf(transformer=True, symmetric=False), quick=False),
    Contender(
        "NNCF, transformer, symmetric", toolkits.nncf(transformer=True, symmetric=True), quick=False
    ),
)


def contenders(quick: bool) -> tuple[Contender, ...]:
    """Return the peers of a run."""
    return tuple(peer for peer in PEERS if peer.quick or not quick)


@lru_cache(maxsize=64)
def graphs(subject: Subject, peer: Contender) -> Graphs | str:
    """Return what `make` does, but make it once in a process."""
    return make(subject, peer)


def make(subject: Subject, peer: Contender) -> Graphs | str:
    """Return a peer's graph, or the exact reason why there is none."""
    started = perf_counter()
    try:
        with quiet():
            graph = peer.make(subject)
    except Exception as exc:  # whatever a peer raises is its result
        return f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    return Graphs(graph, graph, perf_counter() - started)


@lru_cache(maxsize=4)
def our_graphs(subject: Subject) -> Graphs:
    """Return our graphs in both forms."""
    candidate = ours.quantize(subject, "int8-smooth")
    return Graphs(candidate.lowered("u8"), candidate.lowered("s8"), candidate.clock.total)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what peers print, warn and log.

    What matters is in the table.
    """
    logging.disable(logging.WARNING)
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _files(subject: Subject) -> Iterator[tuple[Path, Path]]:
    """Open what peers read and write: a source with the graph, and a place for theirs."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.onnx"
        source.write_bytes(subject.source)
        yield source, Path(folder) / "quantized.onnx"


def _module(subject: Subject) -> Any:
    """Return the torch module that the full-precision graph was exported from."""
    from tasks.models.export import ConvNet
    from tasks.models.text.encoder import SentenceEncoder

    if subject.spec.task is Task.IMAGE_CLASSIFICATION:
        from safetensors.torch import load_file

        module = ConvNet(json.loads((subject.folder / "config.json").read_text()))
        module.load_state_dict(load_file(subject.folder / "weights.safetensors"))
        return module.eval()
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(
        str(subject.folder), local_files_only=True, attn_implementation="eager"
    )
    return SentenceEncoder(encoder).eval()
