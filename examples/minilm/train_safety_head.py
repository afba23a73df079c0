"""Train the linear safety head on MiniLM's full-precision embedding.

`python -m examples.minilm.train_safety_head`. A text is blocked if and only if `embedding @ weight
+ bias > 0`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from examples.minilm.embedding import embed
from examples.minilm.safety_texts import GOLDEN, TRAIN, SafetyText

HERE = Path(__file__).parent
# Between a head that underfits (1) and one whose large weights magnify every rounding error
# (100000).
INVERSE_REGULARISATION = 300.0

Array = npt.NDArray[np.float32]


def train(entries: Sequence[SafetyText]) -> dict[str, Array]:
    """Fit the head: `weight` [384] and `bias` [1]."""
    blocked = [entry.label == "blocked" for entry in entries]
    head = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
    head.fit(embed([entry.text for entry in entries]), blocked)
    return {"weight": head.coef_[0].astype(np.float32), "bias": head.intercept_.astype(np.float32)}


def scores(head: dict[str, Array], texts: Sequence[str]) -> Array:
    """Score N texts: [N], positive means blocked."""
    return (embed(texts) @ head["weight"] + head["bias"]).astype(np.float32)


def summary(head: dict[str, Array], entries: Sequence[SafetyText]) -> str:
    """State accuracy, and how far decisions lie from the boundary."""
    signed = scores(head, [entry.text for entry in entries])
    signed *= np.array([1 if entry.label == "blocked" else -1 for entry in entries])
    low, tenth, median = np.quantile(signed, [0, 0.1, 0.5])
    # A distance in embedding space, to compare with a quantized embedding's error sqrt(2 - 2
    # cosine).
    length = np.linalg.norm(head["weight"])
    wrong = {
        language: sum(signed[[e.language == language for e in entries]] <= 0)
        for language in _languages(entries)
    }
    return (
        f"{len(entries)} texts, accuracy {np.mean(signed > 0):.4f}, wrong per language {wrong}\n"
        f"  signed margin: min {low:.3f}, 10 % {tenth:.3f}, median {median:.3f}; |margin| < 0.25: "
        f"{int(np.sum(np.abs(signed) < 0.25))}\n"
        f"  signed distance: min {low / length:.4f}, 10 % {tenth / length:.4f}, median "
        f"{median / length:.4f}"
    )


def _languages(entries: Sequence[SafetyText]) -> list[str]:
    """List the languages in order of appearance."""
    return list(dict.fromkeys(entry.language for entry in entries))


def main() -> None:
    """Train, save, and print the figures of both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "safety.safetensors")
    output: Path = parser.parse_args().output
    save_file(train(TRAIN), output)
    head = load_file(output)
    print(f"train:  {summary(head, TRAIN)}")
    print(f"golden: {summary(head, GOLDEN)}")


if __name__ == "__main__":
    main()
