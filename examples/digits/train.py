"""Train the digit classifier and write its weights, data and golden set.

`python -m examples.digits.train`
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from examples.digits.network import CONFIG, ConvNet
from examples.rows import CorpusRow, GoldenCase, fingerprint, share, tensor_payload, write

HERE = Path(__file__).parent
EXPOSURES = (0.5, 1, 2, 4, 8)
# Wider than what is measured, so that the edges of the measured range are not the edges of the
# trained one.
TRAINED_EXPOSURES = (0.25, 10.0)
# Upper ends of the shares of the hash range.
TRAINING_ENDS, TRAFFIC_ENDS, CALIBRATION_ENDS = 0.45, 0.68, 0.80
EPOCHS, BATCH, LEARNING_RATE, SEED = 120, 64, 2e-3, 20

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scan:
    """One image [1, 8, 8] in [0, 1] with its digit and the digest that decides its split."""

    image: Array
    digit: int
    digest: str

    @property
    def split(self) -> str:
        """Name the split that this image falls in."""
        where = share(self.digest)
        ends = {"training": TRAINING_ENDS, "traffic": TRAFFIC_ENDS, "calibration": CALIBRATION_ENDS}
        return next((name for name, end in ends.items() if where < end), "golden")


def scans() -> list[Scan]:
    """Load the images once each, whatever their exposure would be: they are told apart at 1."""
    images, digits = load_digits(return_X_y=True)
    unique: dict[str, Scan] = {}
    for pixels, digit in zip(images, digits, strict=True):
        image = (pixels / 16).astype(np.float32).reshape(1, 8, 8)
        digest = fingerprint(image.astype("<f4").tobytes())
        unique.setdefault(digest, Scan(image, int(digit), digest))
    return list(unique.values())


def train(images: Array, digits: npt.NDArray[np.int64]) -> ConvNet:
    """Fit on images [N, 1, 8, 8], each at a new random exposure in every epoch."""
    torch.manual_seed(SEED)
    # Sums in another order give other weights: one thread, so that any machine of one kind agrees.
    torch.set_num_threads(1)
    network = ConvNet(CONFIG)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    rounds = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=LEARNING_RATE, total_steps=rounds
    )
    inputs, targets = torch.from_numpy(images), torch.from_numpy(digits)
    low, high = np.log(TRAINED_EXPOSURES)
    for _ in range(EPOCHS):
        for indices in torch.split(torch.randperm(len(inputs)), BATCH):
            exposure = torch.exp(torch.empty(len(indices), 1, 1, 1).uniform_(low, high))
            loss = torch.nn.functional.cross_entropy(
                network(inputs[indices] * exposure), targets[indices]
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return network.eval()


def accuracy(network: ConvNet, images: Array, digits: npt.NDArray[np.int64]) -> float:
    """Return the share of images [N, 1, 8, 8] that are classified right."""
    with torch.inference_mode():
        return float((network(torch.from_numpy(images)).argmax(1).numpy() == digits).mean())


def arrays(chosen: list[Scan]) -> tuple[Array, npt.NDArray[np.int64]]:
    """Stack scans to images [N, 1, 8, 8] and digits [N]."""
    return np.stack([scan.image for scan in chosen]), np.array(
        [scan.digit for scan in chosen], dtype=np.int64
    )


def corpus_rows(chosen: list[Scan]) -> list[CorpusRow]:
    """Turn scans into rows at exposure 1, of the domain that golden cases at it have."""
    return [
        CorpusRow(
            scan.digest[:16], tensor_payload(scan.image), "exposure-1", "none", str(scan.digit)
        )
        for scan in chosen
    ]


def golden_cases(chosen: list[Scan]) -> list[GoldenCase]:
    """Turn every scan into one case an exposure."""
    return [
        GoldenCase(
            f"exposure-{exposure}-{scan.digest[:16]}",
            tensor_payload(scan.image * np.float32(exposure)),
            f"exposure-{exposure}",
            "none",
            label=str(scan.digit),
        )
        for scan in chosen
        for exposure in EXPOSURES
    ]


def main() -> None:
    """Train, write everything beside this script, and print counts and golden accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=HERE, help="where to write (default: beside this script)"
    )
    output: Path = parser.parse_args().output
    everything = scans()
    splits = {
        name: [scan for scan in everything if scan.split == name] for name in ("training", "golden")
    }
    network = train(*arrays(splits["training"]))
    save_file(network.state_dict(), output / "weights.safetensors")
    (output / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    for name in ("traffic", "calibration"):
        write(
            output / f"{name}.parquet",
            corpus_rows([scan for scan in everything if scan.split == name]),
        )
    write(output / "golden.parquet", golden_cases(splits["golden"]))
    print(dict(Counter(scan.split for scan in everything)))
    images, digits = arrays(splits["golden"])
    for exposure in EXPOSURES:
        print(
            f"golden accuracy at exposure {exposure}: "
            f"{accuracy(network, images * np.float32(exposure), digits):.4f}"
        )


if __name__ == "__main__":
    main()
