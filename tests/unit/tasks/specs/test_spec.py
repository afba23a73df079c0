"""A wrong spec says which field is wrong, what was found and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import BadInput
from tasks.specs.spec import ModelSpec, Task, load_spec, parse_spec

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "digits",
    "source": ".",
    "task": "image-classification",
    "input": {"shape": [1, 8, 8]},
    "data": {"calibration": "calibration.parquet"},
    "golden": {"cases": "golden.parquet"},
    "budgets": {
        "latency_ratio": 0.9,
        "size_ratio": 0.6,
        "quality": [{"metric": "flips", "at_most": 0.05}],
    },
    "targets": ["onnxruntime-cpu"],
    "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
}


def parse(**changes: Any) -> ModelSpec:
    return parse_spec(yaml.safe_dump({**GOOD, **changes}), where="model.yaml")


def test_a_whole_spec_is_read_with_its_defaults() -> None:
    spec = parse()
    assert spec.task is Task.IMAGE_CLASSIFICATION
    assert spec.input.shape == (1, 8, 8)
    assert spec.window.hours == 24
    assert spec.approval == "auto"
    assert spec.cluster is None


@pytest.mark.parametrize(
    "place", ["none", "local", "tcp://127.0.0.1:8786", "tls://dask.internal:8786"]
)
def test_a_spec_says_where_its_work_is_spread(place: str) -> None:
    assert parse(cluster=place).cluster == place


def test_a_cluster_that_is_no_address_is_refused_by_its_field() -> None:
    with pytest.raises(BadInput, match=r"cluster is 'http://dask:8786'"):
        parse(cluster="http://dask:8786")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"nmae": "x"}, "nmae is unknown; allowed here: version, name, source"),
        (
            {"window": {"hour": 3}},
            "window.hour is unknown; allowed here: hours, minimum_rows, sample, tenant_share",
        ),
        (
            {"control": {"metric": "accuracy", "at_least": 0.9, "x": 1}},
            "control.x is unknown; allowed here: metric, at_least",
        ),
        (
            {
                "budgets": {
                    **GOOD["budgets"],
                    "quality": [{"metric": "flips", "at_most": 0.1, "grp": "all"}],
                }
            },
            "budgets.quality.0.grp is unknown; allowed here: metric, group, at_least, at_most",
        ),
        ({"version": 2}, "version is 2: input should be 1"),
        ({"name": "Digits!"}, "name is 'Digits!'"),
        (
            {"task": "speech"},
            "task is 'speech': input should be 'text-embedding', 'image-classification', "
            "'image-embedding', "
            "'speech-recognition', 'causal-lm' or 'custom'",
        ),
        ({"task": "text-embedding"}, "input.tokenizer is missing"),
        ({"task": "causal-lm"}, "input.tokenizer is missing"),
        (
            {"task": "causal-lm", "input": {"tokenizer": "tokenizer.json"}},
            "budgets.quality: causal-lm has no metric flips; allowed here: agreement, "
            "cache-agreement, ",
        ),
        (
            {"input": {"shape": [1], "new_tokens": 0}},
            "input.new_tokens is 0: input should be greater than or equal",
        ),
        ({"input": {}}, "input.shape is missing"),
        (
            {"input": {"shape": [0, 8]}},
            "input.shape.0 is 0: input should be greater than or equal to 1",
        ),
        ({"schedule": {"slug": "nightly", "interval": 0}}, "schedule.interval is 0"),
        ({"schedule": {"cron": "0 3 * * *"}}, "schedule.slug is missing"),
        ({"targets": []}, "targets is \\[\\]"),
        ({"targets": ["abacus"]}, "targets.0 is 'abacus': input should be 'onnxruntime-cpu'"),
        (
            {"window": {"tenant_share": 0}},
            "window.tenant_share is 0: input should be greater than 0",
        ),
        (
            {
                "budgets": {
                    **GOOD["budgets"],
                    "quality": [{"metric": "flips", "at_most": 0.1, "at_least": 0.1}],
                }
            },
            "give exactly one of at_least and at_most",
        ),
        (
            {"budgets": {**GOOD["budgets"], "quality": [{"metric": "flips", "at_most": -0.1}]}},
            "no candidate can keep flips at_most -0.1: full precision beside itself scores 0",
        ),
        (
            {"budgets": {**GOOD["budgets"], "quality": [{"metric": "cosine", "at_least": 1.2}]}},
            "no candidate can keep cosine at_least 1.2: full precision beside itself scores 1",
        ),
        (
            {"budgets": {**GOOD["budgets"], "quality": [{"metric": "flips", "at_least": 0.2}]}},
            "no candidate can keep flips at_least 0.2",
        ),
    ],
)
def test_a_wrong_field_is_named_by_its_path_with_what_was_found_and_what_is_allowed(
    changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(BadInput, match=f"^model.yaml: .*{found}") as caught:
        parse(**changes)
    assert "\n" not in str(caught.value)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(BadInput, match=r"name is 'X'.*; schedule is missing"):
        parse_spec(
            yaml.safe_dump({k: v for k, v in {**GOOD, "name": "X"}.items() if k != "schedule"}),
            where="m",
        )


@pytest.mark.parametrize(
    ("text", "found"),
    [("a: [", "is not YAML"), ("- 1", "holds list, not a mapping"), ("", "NoneType")],
)
def test_a_file_that_is_no_mapping_is_refused(text: str, found: str) -> None:
    with pytest.raises(BadInput, match=found):
        parse_spec(text, where="model.yaml")


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.yaml", "binary.yaml"):
        with pytest.raises(BadInput, match="cannot be read"):
            load_spec(tmp_path / name)


def test_a_source_is_called_by_its_name_or_by_the_last_part_of_its_path() -> None:
    named, folder, traces = parse(
        sources=[
            {"path": "s3://logs/kserve/", "format": "kserve", "name": "cameras"},
            {"path": "/var/log/In Box/"},
            {"experiment": "chat/Support"},
        ]
    ).sources
    assert [one.slug for one in (named, folder, traces)] == ["cameras", "in-box", "support"]
    assert (named.settled_after, folder.settled_after) == (0, 60)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (
            {"path": "s3:///prefix"},
            "sources.0.path is 's3:///prefix': value error, names no bucket",
        ),
        (
            {"path": "gs://bucket"},
            "sources.0.path is 'gs://bucket': value error, is neither a folder",
        ),
        (
            {"path": "a", "format": "csv"},
            "sources.0.format is 'csv': input should be 'requant-parquet'",
        ),
        ({}, "sources.0: give exactly one of path and experiment"),
        ({"path": "a", "experiment": "b"}, "sources.0: give exactly one of path and experiment"),
        ({"experiment": "b", "format": "jsonl"}, "sources.0: an experiment takes no format"),
        ({"path": "a", "format": "triton"}, "sources.0: format triton needs first_at"),
        ({"path": "a", "first_at": "2026-01-31T03:00:00Z"}, "sources.0: first_at is for formats"),
        ({"path": "."}, "sources.0: its path gives no name of small letters and digits"),
        ({"path": "a", "pth": 1}, "sources.0.pth is unknown; allowed here: path, experiment, name"),
    ],
)
def test_a_wrong_source_is_refused_by_its_field(source: dict[str, Any], found: str) -> None:
    with pytest.raises(BadInput, match=f"^model.yaml: {found}"):
        parse(sources=[source])


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^model.yaml: sources: two sources are called inbox"):
        parse(sources=[{"path": "a/inbox"}, {"path": "b/inbox"}])


def test_the_formats_of_a_source_are_those_that_can_be_imported() -> None:
    from typing import get_args

    from tasks.specs.sources import SourceFormat
    from tasks.traffic.formats import TrafficFormat

    assert set(get_args(SourceFormat)) == {one.value for one in TrafficFormat}


def test_a_custom_task_needs_no_word_about_its_inputs_and_others_say_which_they_need() -> None:
    spec = yaml.safe_load((EXAMPLES / "ocr" / "model.yaml").read_text())
    assert ModelSpec.model_validate({k: v for k, v in spec.items() if k != "input"}).input
    with pytest.raises(ValueError, match=r"control\.metric is agreement; allowed here: cer"):
        ModelSpec.model_validate(spec | {"control": {"metric": "agreement", "at_least": 0.5}})
    for example, why in {"minilm": "input.tokenizer is", "digits": "input.shape is"}.items():
        spec = yaml.safe_load((EXAMPLES / example / "model.yaml").read_text())
        with pytest.raises(ValueError, match=f"{why} missing"):
            ModelSpec.model_validate({k: v for k, v in spec.items() if k != "input"})


def test_guards_of_outputs_are_refused_where_no_text_is_written() -> None:
    document = yaml.safe_load((EXAMPLES / "minilm" / "model.yaml").read_text())

    def guarded(on: str) -> ModelSpec:
        guard = {"name": "tone", "pattern": "rude", "on": on}
        return parse_spec(
            yaml.safe_dump({**document, "serving": {"guards": [guard]}}), where="model.yaml"
        )

    assert guarded("input").serving
    with pytest.raises(BadInput, match="text-embedding writes none of"):
        guarded("output")
