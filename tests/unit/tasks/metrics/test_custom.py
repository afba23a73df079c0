"""Distances, and measures against labels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.metrics.custom.distances import worst_distance
from tasks.metrics.custom.labelled import MEASURES, read_text
from tasks.metrics.custom.labels import array_label, read_array
from tasks.metrics.custom.options import Options


def steps(*places: int, width: int = 4) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return scores whose largest entries are at these places, [steps, width]."""
    return np.eye(width, dtype=np.float32)[list(places)]


def test_the_worst_of_all_outputs_counts() -> None:
    before = {"a": np.ones(3, np.float32), "b": np.array([1.0, 0.0], np.float32)}
    after = {"a": np.ones(3, np.float32), "b": np.array([0.0, 1.0], np.float32)}
    assert worst_distance("cosine", None, before, after) == 0.0
    assert worst_distance("cosine", "a", before, after) == pytest.approx(1.0)
    assert worst_distance("relative-error", None, before, after) == 1.0
    with pytest.raises(BadInput, match="the output c, and there are a, b"):
        worst_distance("cosine", "c", before, after)


def test_maps_are_compared_above_a_threshold() -> None:
    before, after = {"map": np.array([0.9, 0.9, 0.1])}, {"map": np.array([0.9, 0.2, 0.1])}
    assert worst_distance("iou", None, before, after) == 0.5
    assert worst_distance("iou", None, before, after, threshold=0.95) == 1.0


def test_outputs_of_different_shapes_have_no_distance() -> None:
    with pytest.raises(BadInput, match="a metric with a function of your own"):
        worst_distance("cosine", None, {"a": np.ones(3)}, {"a": np.ones(2)})


def test_a_sequence_head_is_decoded_greedily_with_its_blank() -> None:
    outputs = {"y": steps(1, 1, 0, 1, 2, 3)[None]}
    assert read_text(outputs, Options(charset=("a", "b", "c"))) == "aabc"
    assert read_text(outputs, Options(charset=("a", "b"))) == "aab "
    assert read_text({"y": steps(3, 0, 0, 1)}, Options(charset=("a", "b", "c"), blank=3)) == "ab"
    with pytest.raises(BadInput, match="the charset 1 characters"):
        read_text(outputs, Options(charset=("a",)))


@pytest.mark.parametrize(
    ("measure", "outputs", "label", "options", "expected"),
    [
        ("cer", {"y": steps(1, 2)}, "ac", Options(charset=("a", "b", "c")), 0.5),
        ("exact-match", {"y": steps(1, 2)}, "ab", Options(charset=("a", "b", "c")), 1.0),
        ("wer", {"y": steps(1, 3, 2)}, "a b", Options(charset=("a", "b", " ")), 0.0),
        ("accuracy", {"y": np.array([0.1, 0.9])}, "1", Options(), 1.0),
        ("accuracy", {"y": np.array([0.1, 0.9])}, "cat", Options(classes=("cat", "dog")), 0.0),
        ("absolute-error", {"y": np.array([3.0])}, "2.5", Options(), 0.5),
        ("squared-error", {"y": np.array([1.0, 3.0])}, "[1, 1]", Options(), 2.0),
        ("token-f1", {"y": steps(1, 2, 0, width=3)}, "[1, 2, -100]", Options(ignore=-100), 1.0),
        ("frame-f1", {"y": np.array([[0.9, 0.1]])}, "[[1, 1]]", Options(), 2 / 3),
        ("frame-f1", {"y": np.zeros((2, 2))}, "[[0, 0], [0, 0]]", Options(), 1.0),
        ("miou", {"y": np.array([[[0.9, 0.9], [0.1, 0.1]]])}, "[[1, 0], [0, 0]]", Options(), 0.5),
        ("miou", {"y": steps(0, 1, width=2).T[:, None]}, "[[0, 1]]", Options(), 1.0),
    ],
)
def test_measures_against_labels(
    measure: str, outputs: dict[str, Any], label: str, options: Options, expected: float
) -> None:
    assert MEASURES[measure](outputs, label, options) == pytest.approx(expected)


def test_boxes_are_judged_by_coco() -> None:
    label = json.dumps({"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [0, 0]})
    rows = np.array([[0, 0, 10, 10, 0.9, 0], [20, 20, 30, 30, 0.8, 0]])
    assert MEASURES["map"]({"y": rows}, label, Options()) == pytest.approx(1.0)
    assert MEASURES["map"]({"y": rows[:1]}, label, Options()) == pytest.approx(0.5, abs=0.01)
    apart = {"b": rows[:, :4], "s": rows[:, 4:5]}
    options = Options(roles={"boxes": "b", "scores": "s"})
    assert MEASURES["map"](apart, label, options) == pytest.approx(1.0)
    nothing = json.dumps({"boxes": [], "labels": []})
    assert MEASURES["map"]({"y": rows}, nothing, Options()) == 0.0
    assert MEASURES["map"]({"y": rows[:0]}, nothing, Options()) == 1.0


def test_an_array_is_a_label() -> None:
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    assert read_array(array_label(mask)).tolist() == mask.tolist()
    with pytest.raises(BadInput, match="holds no numbers"):
        read_array("cat")


@pytest.mark.parametrize(("kind", "expected"), [("cosine", 0.8), ("agreement", 0), ("iou", 1)])
def test_a_class_that_both_rule_out_is_no_difference(kind: str, expected: float) -> None:
    before = {"y": np.array([-np.inf, -2.0, -1.0], np.float32)}
    after = {"y": np.array([-np.inf, -1.0, -2.0], np.float32)}
    value = worst_distance(kind, None, before, after)
    assert value == pytest.approx(expected)
    with pytest.raises(BadInput, match="the candidate output holds NaN or infinity"):
        worst_distance(kind, None, {"y": np.zeros(3, np.float32)}, after)
