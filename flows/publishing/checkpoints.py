"""A language model's champion as a folder that vLLM loads, on disk or on S3."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flows.publishing.triton import Publication
from flows.queries.checkpoint import export_checkpoint
from infra.errors import NotFound, Refused
from infra.settings import settings
from infra.stores import open_store
from tasks.promotion.history import champion_of


def publish_vllm(model: str, to: str, source: Path | None = None) -> Publication:
    """Write the champion's compressed-tensors checkpoint to a folder of its version.

    The configuration comes last: a folder with it is whole.

    Args:
        model: A registered language model.
        to: A folder, or s3://bucket/prefix; below it MODEL/VERSION is made.
        source: As `export_checkpoint`.

    Raises:
        NotFound: There is no champion.
        Refused: The version's folder is whole already, and is not written over.
        BadInput: As `export_checkpoint`.
    """
    chosen, champion = settings(), champion_of(model)
    if champion is None:
        raise NotFound(f"{model} has no champion: run `requant maintain {model}` first")
    store = open_store(to, endpoint_url=chosen.s3_endpoint_url, region=chosen.s3_region)
    folder = f"{model}/{champion.version}"
    if store.exists(f"{folder}/config.json"):
        raise Refused(f"{to.rstrip('/')}/{folder} is there already, and is not written over")
    with tempfile.TemporaryDirectory(prefix="requant-") as name:
        made = Path(name) / "checkpoint"
        export_checkpoint(model, made, source)
        files = [path for path in sorted(made.rglob("*")) if path.is_file()]
        files.sort(key=lambda path: path.name == "config.json")
        for path in files:
            store.put_file(f"{folder}/{path.relative_to(made).as_posix()}", path)
    where = f"{to.rstrip('/')}/{folder}"
    return Publication(model, champion.version, where, (), tried=False)
