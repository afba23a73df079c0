"""YAML is read in bounded time and memory: nothing twice, nothing by reference, nothing deep."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from infra.errors import BadInput
from infra.yaml_text import DEEPEST, MOST_BYTES, read_yaml
from tasks.specs.spec import parse_spec
from tasks.traffic.simulation.scenario import parse_scenario

BILLION = "a: &a [x, x]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a: 1\na: 2\n", "'a' stands twice"),
        ("a: {b: 1, c: 2, b: 3}\n", "'b' stands twice"),
        ("- {x: 1}\n- {x: 1, 'x': 2}\n", "'x' stands twice"),
        ("1: a\n1.0: b\n", "stands twice"),
        (BILLION, r"alias \*a"),
        ("a: &a {b: *a}\n", r"alias \*a"),
        ("a: &a {x: 1}\nb: {<<: *a}\n", r"alias \*a"),
        ("[" * 100_000, "deep"),
        ("a: " + "{a: " * 5_000, "deep"),
        ("\n".join(" " * n + "a:" for n in range(500)), "deep"),
        ("a: " + "x" * MOST_BYTES, "longer than 256 KB"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("? [1, 2]\n: x\n", "not YAML"),
        ("a: !!int 'x'\n", "not YAML"),
        ("a: 2026-99-99\n", "not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
    ],
)
@pytest.mark.parametrize("read", [read_yaml, parse_spec, parse_scenario])
def test_what_could_mislead_or_exhaust_is_refused_at_once(
    read: object, text: str, names: str
) -> None:
    assert callable(read)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(BadInput, match=names) as refused:
        read(text, where="spec.yaml")
    spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "spec.yaml" in str(refused.value)
    assert len(str(refused.value)) < 1_000
    assert spent < 5
    assert peak < 64 * 2**20


def test_what_a_spec_says_is_read_as_before() -> None:
    text = "a: [1, {b: c}]\nd: 2026-01-05\ne: {f: null, 'g h': 1.5}\n"
    import yaml

    assert read_yaml(text, where="x") == yaml.safe_load(text)
    nested = "a: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert read_yaml(nested, where="x") == yaml.safe_load(nested)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO", "y", "n"])
def test_words_that_yaml_1_1_took_for_truth_values_are_texts(word: str) -> None:
    assert read_yaml(f"{word}: {word}", where="a spec") == {word: word}
    assert read_yaml("a: true\nb: False", where="a spec") == {"a": True, "b": False}
