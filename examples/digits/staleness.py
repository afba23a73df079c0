"""Show in fake quantization that the digits model's scales go stale.

`python -m examples.digits.staleness`. INT8, per-channel symmetric weights, per-tensor symmetric
activations at the input of every layer, max rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from examples.digits.network import CONFIG, ConvNet
from examples.digits.train import EXPOSURES
from examples.rows import tensor_of

HERE = Path(__file__).parent
STALE_EXPOSURES = (0.25, 0.5, 1.0)
_LAYERS = ("conv1", "conv2", "fc1", "fc2")
_LEVELS = 127


@dataclass(frozen=True)
class Labelled:
    """Images [N, 1, 8, 8] and their digits [N]."""

    images: torch.Tensor
    digits: torch.Tensor


def load(path: Path, domain: str) -> Labelled:
    """Read the rows of one domain."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["domain"] == domain]
    images = np.stack([tensor_of(row["tensor"], row["shape"]) for row in rows])
    return Labelled(torch.from_numpy(images), torch.tensor([int(row["label"]) for row in rows]))


def full_precision() -> ConvNet:
    """Load the trained network."""
    network = ConvNet(CONFIG)
    network.load_state_dict(load_file(HERE / "weights.safetensors"))
    return network.eval()


def observe(network: ConvNet, batches: list[torch.Tensor]) -> dict[str, float]:
    """Return the amax of every layer's input over all batches."""
    amax = dict.fromkeys(_LAYERS, 0.0)

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            amax[name] = max(amax[name], float(inputs[0].abs().max()))

        return network.get_submodule(name).register_forward_pre_hook(hook)

    handles = [watch(name) for name in _LAYERS]
    with torch.inference_mode():
        for batch in batches:
            network(batch)
    for handle in handles:
        handle.remove()
    return amax


def quantized(amax: Mapping[str, float]) -> ConvNet:
    """Return a network whose layers round their weights and inputs to INT8."""
    network = full_precision()
    for name in _LAYERS:
        layer = network.get_submodule(name)
        weight = layer.get_parameter("weight")
        steps = weight.detach().abs().flatten(1).amax(1) / _LEVELS
        weight.data = _rounded(weight.data, steps.view(-1, *[1] * (weight.dim() - 1)))
        step = torch.tensor(amax[name] / _LEVELS)
        layer.register_forward_pre_hook(lambda _, inputs, step=step: (_rounded(inputs[0], step),))
    return network


def _rounded(values: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Round to the grid of `step` and clip to its ends."""
    return (values / step).round().clamp(-_LEVELS, _LEVELS) * step


def accuracy(network: ConvNet, images: torch.Tensor, digits: torch.Tensor) -> float:
    """Return the share of images classified right."""
    with torch.inference_mode():
        return float((network(images).argmax(1) == digits).float().mean())


def main() -> None:
    """Print one line an exposure, then the domains on which full precision itself fails."""
    network = full_precision()
    pool = load(HERE / "calibration.parquet", "exposure-1").images
    stale = quantized(observe(network, [pool * exposure for exposure in STALE_EXPOSURES]))
    print("exposure  FP32    stale   recalibrated")
    for exposure in EXPOSURES:
        golden = load(HERE / "golden.parquet", f"exposure-{exposure}")
        fresh = quantized(observe(network, [pool * exposure]))
        figures = [accuracy(each, golden.images, golden.digits) for each in (network, stale, fresh)]
        print(f"{exposure:<10}" + "  ".join(f"{figure:.4f}" for figure in figures))
    golden = load(HERE / "golden.parquet", "exposure-1")
    print(f"FP32, inverted: {accuracy(network, 1 - golden.images, golden.digits):.4f}")
    print(
        "FP32, rotated by 90 degrees: "
        f"{accuracy(network, golden.images.rot90(1, (2, 3)), golden.digits):.4f}"
    )


if __name__ == "__main__":
    main()
