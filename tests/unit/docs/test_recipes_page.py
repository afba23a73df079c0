"""Every recipe has its worked line."""

from pathlib import Path

import pytest

from tasks.quantization.recipe.catalog import RECIPES

PAGE = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
FAMILIES = {
    "int8-mixed-": "`int8-mixed-1` … `int8-mixed-8`",
    "int8-fp16": "`int8-fp16`, `-gptq`, `-mixed-4`",
    "int4-block-": "`int4-block-32`, `-64`, `-128`",
    **dict.fromkeys(("int4-4.5-bits", "int4-6-bits"), "`int4-4.5-bits`, `int4-6-bits`"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_worked_line(name: str) -> None:
    shown = next((text for start, text in FAMILIES.items() if name.startswith(start)), f"`{name}`")
    assert f"| {shown} |" in PAGE
