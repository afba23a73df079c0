"""Fields of OpenAI's interface that cannot be had here, and the values of them that change nothing.

What would change an answer is refused in a sentence, whatever its name, and never left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.errors import BadInput

PASSING = frozenset(
    {
        "metadata",
        "parallel_tool_calls",  # of tools, which there are none of
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "tool_call_id",
    }
)
"""Fields that change no answer, whatever they say."""
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "annotations": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),  # of completions 0 asks for those of the tokens that were chosen
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Field -> values that say what is done anyway."""


def require_known(extra: Mapping[str, object] | None, place: str = "") -> None:
    """Raise `BadInput` for a field that would be left out.

    Args:
        extra: The fields that a body has beside those that are read; null is the same as nothing.
        place: What has them, such as "messages.0."; empty: the body itself.
    """
    for name, value in (extra or {}).items():
        if value is not None and name not in PASSING and not _is_neutral(name, value):
            raise BadInput(f"{place}{name} cannot be had here: leave it out")


def _is_neutral(name: str, value: object) -> bool:
    told = isinstance(value, bool)
    return any(
        value == neutral and told == isinstance(neutral, bool) for neutral in NEUTRAL.get(name, ())
    )
