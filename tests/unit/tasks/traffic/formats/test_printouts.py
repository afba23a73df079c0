"""A printout of a value is no text that anybody sent; a text that only quotes one is."""

import time

import numpy as np
import pandas as pd
import pytest

from tasks.traffic.formats.bodies.printouts import printed

FRAME = pd.DataFrame({"text": ["first", "second"], "n": [1, 2]})


@pytest.mark.parametrize(
    "value",
    [
        FRAME,
        FRAME.set_index("text"),
        pd.concat([FRAME] * 200),
        FRAME["text"],
        FRAME["n"].to_numpy(),
        pd.Categorical(["a", "b"]),
        np.arange(6.0).reshape(2, 3),
        np.arange(6000),
        np.array(["a", "b c"]),
        object(),
        [object(), object()],
        lambda: None,
        (letter for letter in ""),
    ],
)
def test_what_python_prints_of_a_value_is_a_printout(value: object) -> None:
    assert printed(str(value)) is not None


@pytest.mark.parametrize(
    "text",
    ["[0.1, 0.2, ..., 0.9]", "[[1, 2, ...], ...]", "[object Object]", r"b'\x89PNG'", "tensor([1])"],
)
def test_what_others_print_is_one_too(text: str) -> None:
    assert printed(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "what does [0.1, 0.2, ..., 0.9] mean?",
        "[1, 2, 3]",
        "[...]",
        "tensor calculus is fun (really)",
        "[citation needed]",
        "- a\n- b",
        "<b>bold</b>",
        "What is\ndtype: object",
        "wait ... what?",
        "see <object object at 0x7f00> in my log",
        "  indented\nnot",
    ],
)
def test_ordinary_texts_are_none(text: str) -> None:
    assert printed(text) is None


def test_a_megabyte_is_judged_in_one_pass() -> None:
    begun = time.perf_counter()
    for text in ("[" + "1 " * 500_000 + "x", "[" * 10**6, "['a' " * 200_000, "b'" + "\\" * 10**6):
        assert printed(text) is None
    assert time.perf_counter() - begun < 5
