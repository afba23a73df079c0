"""`requant recipes`: one line a recipe, and the rule behind every no."""

import json

import pytest

from flows.cli import app
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.targets import EVERY_TARGET, why_not


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app(["recipes", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_a_recipe_is_one_line_and_every_no_has_its_rule(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys)
    for name, recipe in RECIPES.items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert recipe.summary in line
        for reason in filter(None, (why_not(recipe, target) for target in EVERY_TARGET)):
            assert f"no: {reason}" in out


def test_the_document_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = {one["name"]: one["obstacles"] for one in json.loads(printed(capsys, "--json"))}
    assert found == {
        name: {one: why_not(recipe, one) for one in EVERY_TARGET}
        for name, recipe in RECIPES.items()
    }
