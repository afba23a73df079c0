"""A champion as a checkpoint that other toolkits load."""

from pathlib import Path

import onnx

from infra.errors import BadInput, NotFound
from infra.settings import settings
from infra.sources import fetch
from tasks.layerwise.quantized import QUANTIZATION, layers_in
from tasks.models.catalog import RegisteredModel, open_model, spec_folder
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.promotion.history import champion_of
from tasks.promotion.release import GRAPH
from tasks.quantization.compressed.exported import Checkpoint, write_checkpoint
from tasks.specs.form import ByForm
from tasks.specs.traits import Task


def export_checkpoint(model: str, output: Path, source: Path | None = None) -> Checkpoint:
    """Write a language model's champion as a compressed-tensors checkpoint.

    Args:
        model: A registered language model.
        output: The folder to write.
        source: The checkpoint that it was made from; None: the spec's own source.

    Raises:
        NotFound: It has no champion.
        BadInput: It is no language model, the folder holds something, or as `write_checkpoint`.
        Unavailable: As `write_checkpoint`.
    """
    registered, champion = open_model(model), champion_of(model)
    if registered.spec.task is not Task.CAUSAL_LM:
        raise BadInput(f"{model} is no language model: compressed-tensors checkpoints are of those")
    if champion is None:
        raise NotFound(f"{model} has no champion: run `requant maintain {model}` first")
    if output.exists() and not (output.is_dir() and next(output.iterdir(), None) is None):
        raise BadInput(f"{output} is there already: name a new folder, or an empty one")
    graph = onnx.load_from_string(settings().release(model, champion.digest).file(GRAPH))
    return _WRITTEN.of(registered.form)(registered, graph, output, source)


def _exported(
    registered: RegisteredModel, graph: onnx.ModelProto, output: Path, source: Path | None
) -> Checkpoint:
    folder = source or fetch(
        registered.spec.source,
        base=spec_folder(registered.name),
        cache=settings().root / "cache" / registered.name,
        endpoint_url=settings().s3_endpoint_url,
        region=settings().s3_region,
    )
    return write_checkpoint(graph, registered.sites, folder, output)


def _carried(
    _: RegisteredModel, index: onnx.ModelProto, output: Path, source: Path | None
) -> Checkpoint:
    """Write a champion that is a checkpoint already."""
    carried = CarriedCheckpoint(index)
    carried.write_folder(output)
    quantization = carried.config.get(QUANTIZATION, {})
    groups = quantization.get("config_groups", {}).values()
    return Checkpoint(
        str(output),
        len([*layers_in(carried.names)]),
        tuple(quantization.get("ignore", ())),
        tuple(sorted({str(group["format"]) for group in groups})),
    )


_WRITTEN = ByForm(graph=_exported, checkpoint=_carried)
