"""From what a user sends, an image, a sound or a text, to a graph's inputs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from infra.errors import BadInput
from tasks.preprocess import prepare, steps
from tasks.preprocess.decoding import decode_audio
from tasks.preprocess.prepare import Preparation, digest_of, is_raw
from tasks.records import Record
from tasks.specs.preprocess import Frames, PreprocessSpec
from tasks.specs.tensors import Dimension, RecordLayout, TensorLayout
from tests.kind_folders import tokenizer


def layout(reads: str, *steps: dict[str, Any], dtype: str = "float32", **rest: Any) -> RecordLayout:
    tensors = {"x": TensorLayout(dtype, (3, "height", "width"), True)}
    sizes = {name: Dimension(1, 8, 64) for name in ("height", "width")}
    rules = PreprocessSpec.model_validate({"reads": reads, "steps": steps, **rest})
    return RecordLayout(tensors, sizes, None, rules)


def png(pixels: Any) -> Record:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return {"image": np.frombuffer(buffer.getvalue(), np.uint8)}


def test_an_image_is_resized_padded_and_normalised() -> None:
    steps = (
        {"step": "resize", "height": 4},
        {"step": "pad", "multiple": 8},
        {"step": "normalise", "mean": [0.0, 0.5, 0.0], "deviation": 0.5},
    )
    pixels = np.full((8, 6, 3), (255, 0, 51))
    record = Preparation(layout("image", *steps), None).record(png(pixels))
    x = record["x"]
    assert (x.shape, x.dtype) == ((3, 8, 8), np.float32)
    assert x[:, 0, 0].tolist() == pytest.approx([2.0, -1.0, 0.4])
    assert x[0, 7, 7] == 0.0


def test_channels_come_in_the_order_asked_for() -> None:
    record = Preparation(layout("image", {"step": "normalise"}, channels="BGR"), None).record(
        png(np.full((2, 2, 3), (255, 0, 51)))
    )
    assert record["x"][:, 0, 0].tolist() == pytest.approx([0.2, 0.0, 1.0])


def test_the_shortest_side_decides_and_sides_are_multiples() -> None:
    steps = ({"step": "resize", "shortest": 10, "multiple": 4}, {"step": "normalise"})
    record = Preparation(layout("image", *steps), None).record(png(np.zeros((5, 20, 3))))
    assert record["x"].shape == (3, 8, 40)


def test_a_sound_becomes_log_mel_bands() -> None:
    buffer = io.BytesIO()
    tone = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000)
    wavfile.write(buffer, 16_000, (tone * 20_000).astype(np.int16))
    sound: Record = {"audio": np.frombuffer(buffer.getvalue(), np.uint8)}
    rules = layout("audio", {"step": "log-mel", "bands": 40})
    bands = Preparation(rules, None).record(sound)["x"]
    assert bands.shape == (40, 101)
    assert bands.mean(axis=1).argmax() in range(4, 9)
    other = layout("audio", {"step": "log-mel", "rate": 8000})
    with pytest.raises(BadInput, match="16000 samples a second, and log-mel reads 8000"):
        Preparation(other, None).record(sound)


def test_a_text_is_tokenized_to_the_graphs_own_names() -> None:
    step = {"step": "tokenize", "ids": "tokens", "mask": None, "length": 6}
    record = Preparation(layout("text", step), tokenizer().to_str().encode()).record("red a")
    assert record["tokens"].tolist() == [1, 7, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("payload", "steps", "why"),
    [
        ({"image": np.arange(9, dtype=np.uint8)}, [{"step": "normalise"}], "cannot be read"),
        (png(np.zeros((9, 9, 3))), [{"step": "pad", "height": 4}], "is padded to"),
        (png(np.zeros((9, 9, 3))), [{"step": "normalise", "mean": [1, 2]}], "normalise failed"),
    ],
)
def test_what_a_step_cannot_take_is_one_sentence(
    payload: Record, steps: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        Preparation(layout("image", *steps), None).record(payload)


def test_tensors_stay_tensors() -> None:
    rules = layout("image", {"step": "normalise"})
    assert is_raw(png(np.zeros((2, 2, 3))), rules)
    assert not is_raw({"x": np.zeros((3, 2, 2), np.float32)}, rules)
    assert not is_raw("a text", rules)


def test_another_text_of_a_trusted_step_is_another_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "requant_steps.py"
    module.write_text("def double(x):\n    return x * 2.0\n")
    trusting = prepare.settings().model_copy(update={"trusted_metrics": str(tmp_path)})
    monkeypatch.setattr(prepare, "settings", lambda: trusting)
    steps = ({"step": "normalise"}, {"step": "function", "function": "requant_steps:double"})
    rules = layout("image", *steps)
    assert rules.preprocess is not None
    record = Preparation(rules, None).record(png(np.full((2, 2, 3), 255)))
    assert record["x"].max() == 2.0
    before = digest_of(rules.preprocess)
    module.write_text("def double(x):\n    return x * 2.5\n")
    assert digest_of(rules.preprocess) != before


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise KeyError('x')", "step function requant_bad_[0-9]+:own failed .KeyError.: 'x'"),
        ("import sys; sys.exit(1)", "step function requant_bad_[0-9]+:own failed .SystemExit.: 1"),
        ("return None", "the preprocess steps gave NoneType, not numbers, as the input x"),
        ("return 'text'", "the preprocess steps gave str, not numbers, as the input x"),
        ("return {'x': ['a']}", "the preprocess steps gave list, not numbers, as the input x"),
        ("return x * float('nan')", "the preprocess steps gave NaN or infinity for the input x"),
    ],
)
def test_a_function_that_breaks_its_word_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    module = f"requant_bad_{sum(body.encode())}"
    (tmp_path / f"{module}.py").write_text(f"def own(x):\n    {body}\n")
    trusting = prepare.settings().model_copy(update={"trusted_metrics": str(tmp_path)})
    monkeypatch.setattr(prepare, "settings", lambda: trusting)
    step = {"step": "function", "function": f"{module}:own"}
    rules = layout("image", {"step": "normalise"}, step)
    with pytest.raises(BadInput, match=rf"^[^\n]*{why}[^\n]*$"):
        Preparation(rules, None).record(png(np.zeros((2, 2, 3))))


def test_what_a_function_prints_leaves_the_output_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requant_step_loud.py").write_text(
        "print(1)\ndef own(x):\n    print(2)\n    return x\n"
    )
    trusting = prepare.settings().model_copy(update={"trusted_metrics": str(tmp_path)})
    monkeypatch.setattr(prepare, "settings", lambda: trusting)
    step = {"step": "function", "function": "requant_step_loud:own"}
    Preparation(layout("image", {"step": "normalise"}, step), None).record(png(np.zeros((2, 2, 3))))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_a_damaged_sound_is_read_or_told_and_nothing_else_is_raised(kind: type) -> None:
    buffer = io.BytesIO()
    wavfile.write(buffer, 16_000, np.zeros(8, kind))
    whole = buffer.getvalue()
    damaged = [whole[:end] for end in range(len(whole))]
    for place in range(60):
        for byte in (0, 1, 3, 255):
            damaged.append(whole[:place] + bytes([byte]) + whole[place + 1 :])
    told = 0
    for data in damaged:
        try:
            decode_audio(data)
        except BadInput:
            told += 1
    assert told > len(whole)


@pytest.mark.parametrize(
    ("samples", "hop", "expected"),
    [
        (6, None, [[0, 1, 2], [3, 4, 5]]),
        (7, None, [[0, 1, 2], [3, 4, 5], [6, 0, 0]]),
        (4, 2, [[0, 0, 1], [1, 2, 3]]),
        (0, 3, [[0, 0, 0]]),
    ],
)
def test_a_sound_becomes_chunks_that_leave_nothing_out(
    samples: int, hop: int | None, expected: list[list[int]]
) -> None:
    rules = Frames(step="frames", length=3, hop=hop)
    assert steps.frames(np.arange(samples, dtype=np.float32), rules).tolist() == expected
