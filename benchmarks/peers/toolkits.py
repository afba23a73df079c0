"""Two toolkits that quantize ONNX graphs with tools of their own around them: NNCF and Olive."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from benchmarks.harness.subject import Subject


def nncf(*, transformer: bool, symmetric: bool) -> Callable[[Subject], bytes]:
    """Return a call of `nncf.quantize` on one text at a time, as its guide does.

    Args:
        transformer: Whether NNCF brings its SmoothQuant.
        symmetric: Whether to ask for the preset and the device whose rules TensorRT shares.
            They are signed, with no zero-point.
    """

    def make(subject: Subject) -> bytes:
        import nncf as toolkit  # type: ignore[import-untyped,import-not-found,unused-ignore]

        data = [
            {name: value[row : row + 1] for name, value in feeds.items()}
            for feeds in subject.batches()
            for row in range(len(next(iter(feeds.values()))))
        ]
        options: dict[str, Any] = {}
        if transformer:
            options["model_type"] = toolkit.ModelType.TRANSFORMER
        if symmetric:
            options |= {
                "preset": toolkit.QuantizationPreset.PERFORMANCE,
                "target_device": toolkit.TargetDevice.NPU,
            }
        quantized = toolkit.quantize(
            subject.model, toolkit.Dataset(data), subset_size=len(data), **options
        )
        return bytes(quantized.SerializeToString())

    return make


def olive(options: Mapping[str, Any]) -> Callable[[Subject], bytes]:
    """Return a call of Olive's `OnnxStaticQuantization` pass.

    It runs ONNX Runtime's quantizer after Olive's own preparation of the graph.
    """

    def make(subject: Subject) -> bytes:
        from olive.data.config import DataConfig  # type: ignore[import-untyped,unused-ignore]
        from olive.data.registry import Registry  # type: ignore[import-untyped,unused-ignore]
        from olive.hardware.accelerator import (  # type: ignore[import-untyped,unused-ignore]
            DEFAULT_CPU_ACCELERATOR,
        )
        from olive.model import ONNXModelHandler  # type: ignore[import-untyped,unused-ignore]
        from olive.passes.olive_pass import create_pass_from_dict  # type: ignore[import-untyped,unused-ignore]
        from olive.passes.onnx.quantization import OnnxStaticQuantization  # type: ignore[import-untyped,unused-ignore]

        batches = subject.batches()

        @Registry.register_dataset("requant_batches")  # type: ignore[untyped-decorator,unused-ignore]
        def load(**_: object) -> list[tuple[Mapping[str, Any], int]]:
            return [(feeds, 0) for feeds in batches]

        data = DataConfig(
            name="calibration",
            load_dataset_config={"type": "requant_batches"},
            dataloader_config={"type": "no_auto_batch_dataloader"},
        )
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source.onnx")
            source.write_bytes(subject.source)
            chosen = {**options, "data_config": data}
            tool = create_pass_from_dict(
                OnnxStaticQuantization,
                chosen,
                disable_search=True,
                accelerator_spec=DEFAULT_CPU_ACCELERATOR,
            )
            quantized = tool.run(ONNXModelHandler(str(source)), str(Path(folder, "quantized.onnx")))
            return onnx.load(quantized.model_path).SerializeToString()  # type: ignore[no-any-return]

    return make
