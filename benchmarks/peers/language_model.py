"""modelopt's torch path on the language model.

Fake quantization happens inside the module, which runs as an engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.subject import Subject
from tasks.models.inputs import language_inputs
from tasks.models.language.decoder import CachedDecoder
from tasks.models.language.layout import FED, CacheLayout


@dataclass(frozen=True, eq=False)
class TorchEngine:
    """A cached decoder in torch with the names of its graph's inputs and outputs."""

    decoder: CachedDecoder
    layout: CacheLayout

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Map inputs by name to outputs by name."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feeds.items()
        }
        past = [tensors[f"past.{name}"] for name in self.layout.names]
        with torch.no_grad():
            outputs = self.decoder(*(tensors[name] for name in FED), past)
        return {
            name: value.numpy() for name, value in zip(self.layout.outputs, outputs, strict=True)
        }


def modelopt(config: str) -> Callable[[Subject], TorchEngine]:
    """Return a call of `modelopt.torch.quantization.quantize` with one of its configurations.

    It calibrates on the subject's calibration texts.
    """

    def make(subject: Subject) -> TorchEngine:
        import modelopt.torch.quantization as mtq
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(
            str(subject.folder),
            local_files_only=True,
            attn_implementation="eager",
            dtype=torch.float32,
        )
        layout = language_inputs(subject.inputs).layout
        batches = subject.batches()

        def forward(chosen: Any) -> None:
            engine = TorchEngine(CachedDecoder(chosen).eval(), layout)
            for feeds in batches:
                engine.run(feeds)

        quantized = mtq.quantize(model.eval(), getattr(mtq, config), forward)
        return TorchEngine(CachedDecoder(quantized).eval(), layout)

    return make
