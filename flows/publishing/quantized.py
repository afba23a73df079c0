"""A checkpoint quantized layer by layer: for models that no graph of this machine holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import BadInput, Refused
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.models.corpus import read_corpus
from tasks.models.folders.table import read_table
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.derive import DerivedCheckpoint, derive
from tasks.quantization.streamed.losses import place
from tasks.quantization.streamed.texts import windows_by_group

if TYPE_CHECKING:
    import torch

_CUDA = re.compile(r"cuda(?::(\d+))?")
JUDGED = 32
"""Windows that both models read, of all groups together."""


def quantize_checkpoint(
    folder: Path,
    output: Path,
    recipe: str,
    *,
    texts: Path | None = None,
    judge: Path | None = None,
    windows: int = 64,
    tokens: int = 512,
    keep: str | None = None,
    device: str = "cpu",
    told: Callable[[int, int], object] = lambda layer, of: None,
) -> DerivedCheckpoint:
    """Write a quantized copy of a language model's checkpoint.

    Args:
        folder: As Hugging Face stores it, with safetensors.
        output: The folder to write; a derivation that was ended goes on.
        recipe: A recipe's name.
        texts: What is calibrated on: a pool (Parquet), or a table with `text` and `language`.
        judge: What both models read afterwards, likewise; None: nothing is judged.
        windows: To calibrate on, at most.
        tokens: Of a window.
        keep: Linear layers that stay in floating point: a regular expression, or how many of
            their weights, such as 10%, where most is lost.
        device: Where layers are computed: cpu, cuda, cuda:1.
        told: As of `derive`.

    Raises:
        BadInput: Any argument or file that is wrong.
        Unavailable: Memory or disk are too short, or a package is missing.
    """
    import torch

    if windows < 1 or tokens < 2:
        raise BadInput("windows must be 1 or more, and their tokens 2 or more")
    asked = _CUDA.fullmatch(device)
    if device != "cpu" and (asked is None or int(asked[1] or 0) >= torch.cuda.device_count()):
        raise BadInput(f"torch sees no device {device!r} here: use cpu")
    chosen = find_recipe(recipe)
    observed = None
    if texts is not None:
        groups = windows_by_group(folder, _read(texts), tokens, windows)
        observed = torch.cat(list(groups.values()))
    judged: dict[str, torch.Tensor] = {}
    if judge is not None:
        judged.update(windows_by_group(folder, _read(judge), tokens, JUDGED))
    stored = StoredCheckpoint(folder)
    placement = place(keep, stored, chosen, observed, device=device, told=told)
    return derive(
        stored,
        output,
        chosen,
        observed,
        judged,
        device=device,
        keep=placement.keep,
        raised=placement.raised,
        told=told,
    )


def require_close(made: DerivedCheckpoint, at_most: float) -> None:
    """Pass where each judged group's perplexity is at most so many times full precision's.

    Raises:
        Refused: One is more.
    """
    far = [item for item in made.judged if not item.perplexity_ratio <= at_most]
    if far:
        worst = max(far, key=lambda item: item.perplexity_ratio)
        raise Refused(
            f"{made.folder}: on {worst.group} perplexity is {worst.perplexity_ratio:.3f} times "
            f"full precision's, and at most {at_most:g} is allowed ({len(far)} of "
            f"{len(made.judged)} groups are above): calibrate on such texts into another folder, "
            "or keep layers in floating point"
        )


def _read(path: Path) -> Sequence[tuple[str, str]]:
    """Return a file's texts, each with its language; without one, with its domain."""
    if path.suffix == ".parquet":
        try:
            rows = read_corpus(path.read_bytes(), where=str(path))
        except OSError as exc:
            raise BadInput(f"{path} cannot be read ({exc}): name a file") from exc
        found = [(row.language or row.domain, str(row.payload)) for row in rows]
    else:
        found = [
            (row.text("language") or row.text("domain") or "all", text)
            for row in read_table(path)
            if (text := row.text("text")) is not None
        ]
    if not found:
        raise BadInput(f"{path} has no texts: a column `text` is needed")
    return found
