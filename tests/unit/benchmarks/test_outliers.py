"""Rotations change nothing in full precision; prefixes hold what is massive."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.language.outliers import compare, find_prefix, loss
from benchmarks.language.rotations import orthogonal, rotate

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
TEXTS = torch.randint(0, 96, (6, 12), generator=torch.Generator().manual_seed(0))


def model(family: str, **more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE, **more)
    made = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Llama", {"tie_word_embeddings": True}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Qwen2", {}),
        ("Qwen3", {}),
        ("Gemma", {}),
        ("Mistral", {"hidden_size": 32}),
    ],
)
def test_a_rotation_is_exact_to_a_ten_thousandth(
    family: str, more: dict[str, Any], heads: bool
) -> None:
    made = model(family, **more) if "hidden_size" not in more else _wide(family, more)
    with torch.no_grad():
        before = made(input_ids=TEXTS).logits
        table = made.get_input_embeddings().weight.clone()
        rotate(made, heads=heads)
        after = made(input_ids=TEXTS).logits
    assert not torch.allclose(table, made.get_input_embeddings().weight)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-4


def _wide(family: str, more: dict[str, Any]) -> Any:
    narrow = SHAPE["hidden_size"]
    SHAPE["hidden_size"] = more["hidden_size"]
    try:
        return model(family)
    finally:
        SHAPE["hidden_size"] = narrow


@pytest.mark.parametrize("width", [16, 24])
def test_matrices_are_orthogonal_and_hadamard_where_the_width_allows(width: int) -> None:
    turn = orthogonal(width, 3)
    assert torch.allclose(turn @ turn.T, torch.eye(width, dtype=torch.float64), atol=1e-12)
    assert (float(turn.abs().std()) < 1e-12) == (width == 16)


def test_norms_behind_a_layer_are_no_place_for_a_rotation() -> None:
    with pytest.raises(ValueError, match="it is not turned"):
        rotate(model("Gemma2"))


def test_a_prefix_holds_the_first_token_and_those_that_are_massive() -> None:
    made = model("Llama")
    with torch.no_grad():  # one token alone drives the feed-forward of the first layer
        made.model.embed_tokens.weight[7] *= 300
        made.model.layers[0].input_layernorm.weight.zero_()
        made.model.layers[0].post_attention_layernorm.weight.fill_(1)
        made.model.layers[0].mlp.down_proj.weight.zero_()
    texts = TEXTS.clone()
    assert find_prefix(made, texts, 3)[0] == 3
    assert loss(made, texts, (3,)) != loss(made, texts)


def test_every_way_is_measured_and_leaves_the_model_as_it_was() -> None:
    made = model("Llama")
    before = loss(made, TEXTS)
    rows = list(compare(made, {"en": TEXTS, "ja": TEXTS.flip(0)}, 3, (3, 5)))
    assert len(rows) == 9
    assert rows[1].home == pytest.approx(1, abs=1e-4)
    assert all(0.5 < row.home < 5 for row in rows)
    assert loss(made, TEXTS) == before
