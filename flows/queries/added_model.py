"""What registering a model found: what is quantized and where, and what cannot be judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.graphs.canonical.passes import notes_of
from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import language_inputs
from tasks.models.language.layout import prefix_of
from tasks.quantization.target_coverage import (
    RecipeCoverage,
    short_of_int8,
    target_coverage,
    unusable_targets,
)
from tasks.specs.form import CHECKPOINT, ByForm, why_not_written
from tasks.validation.preconditions import weaknesses

Say = Callable[[str, float], object]


@dataclass(frozen=True, slots=True)
class AddedModel:
    """A registered model, as `requant model add` tells of it."""

    facts: Mapping[str, object]
    more: Mapping[str, object]  # in JSON alone
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Contents:
    """What there is to quantize."""

    facts: Mapping[str, object]
    sentences: tuple[str, ...]
    by_target: tuple[RecipeCoverage, ...] = ()
    unusable: Mapping[str, str] | None = None


def describe(added: RegisteredModel, say: Say) -> AddedModel:
    """Return what is told of a model that was just registered; `say` is told what takes long."""
    contents = _CONTENTS.of(added.form)(added, say)
    unusable = contents.unusable or {}
    changed = (*notes_of(added.graph), *_prefix(added))
    weak = weaknesses(added.spec, added.golden, added.classes, added.pool)
    short = short_of_int8(contents.by_target, added.spec.budgets.int8_fraction)
    return AddedModel(
        facts={
            "model": added.name,
            "digest": added.digest,
            **contents.facts,
            "golden cases": len(added.golden.cases),
        },
        more={
            "short of int8": short,
            "changed": changed,
            "coverage": added.coverage,
            "by target": contents.by_target,
            "golden weaknesses": weak,
            "not usable here": unusable,
        },
        sentences=(
            *(f"changed: {sentence}" for sentence in changed),
            *contents.sentences,
            *(f"not enough: {sentence}" for sentence in short),
            *(f"not usable here: {target}: {sentence}" for target, sentence in unusable.items()),
            *(f"cannot be judged: {sentence}" for sentence in weak),
        ),
    )


def _prefix(added: RegisteredModel) -> tuple[str, ...]:
    """Tell what stands before every text, where the spec asks for a prefix."""
    if not added.spec.input.prefix:
        return ()
    found, inputs = prefix_of(added.graph), language_inputs(added.inputs)
    if found is None:
        return ("no token is massive in texts of the pool: nothing stands before every text",)
    words = ", ".join(repr(inputs.decode([token], special=True)) for token in found.tokens)
    return (
        f"{words} stand before every text, as keys and values in the graph: full precision's "
        f"perplexity is {found.perplexity:.3f} of that without, and {found.agreement:.1%} of its "
        "next tokens are the same (texts of the pool)",
    )


def _of_graph(added: RegisteredModel, say: Say) -> _Contents:
    say("asking the targets what they take", 0.8)
    by_target, covered = tuple(target_coverage(added)), added.coverage
    first, *others = covered.sentences
    sentences = [
        f"can be quantized: {first}",
        *(f"stays in floating point: {sentence}" for sentence in others),
    ]
    for item in by_target:
        left = [layer for layer in item.left if layer not in covered.left]
        sentences += [item.sentence, *(f"  leaves {layer.sentence}" for layer in left)]
    unusable = unusable_targets(added.spec.targets)
    return _Contents({"sites": len(added.sites)}, tuple(sentences), by_target, unusable)


def _of_checkpoint(added: RegisteredModel, _: Say) -> _Contents:
    carried, reason = added.checkpoint, why_not_written()
    return _Contents(
        {"tensors": len(carried.names), "gigabytes": round(carried.size / 1e9, 3)},
        ("stays a checkpoint, which is read one decoder layer at a time",),
        unusable={} if reason is None else {CHECKPOINT: reason},
    )


_CONTENTS = ByForm(graph=_of_graph, checkpoint=_of_checkpoint)
