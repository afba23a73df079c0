"""A champion as a folder that a device runs with NumPy and ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path

from flows.publishing.champion import champions_files
from flows.publishing.triton import Publication
from infra.canonical import Json, canonical, sha256
from infra.errors import BadInput
from infra.on_device import load
from tasks.publishing.triton import PLAN

VERSION = 1
MANIFEST, LOADER = "bundle.json", "load.py"


def publish_device(model: str, to: Path, threads: int = 1) -> Publication:
    """Write plan, weights, a loader of one file, and last the manifest with their digests.

    Args:
        model: Whose champion.
        to: A new folder, or an empty one.
        threads: That the engine may use on the device.

    Raises:
        NotFound: There is no champion.
        Refused: Its release has no plan for ONNX Runtime.
        BadInput: The folder holds something.
    """
    files = champions_files(model)
    if to.exists() and not (to.is_dir() and next(to.iterdir(), None) is None):
        raise BadInput(f"{to} is there already: name a new folder, or an empty one")
    contents = {**files.weights, PLAN: files.plan, LOADER: Path(str(load.__file__)).read_bytes()}
    to.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (to / name).write_bytes(data)
    digests: dict[str, Json] = {name: sha256(data) for name, data in contents.items()}
    manifest: dict[str, Json] = {
        "version": VERSION,
        "model": str(files.reference.model),
        "release_version": files.reference.version,
        "release": str(files.reference.digest),
        "threads": threads,
        "files": digests,
    }
    (to / MANIFEST).write_bytes(canonical(manifest))
    return Publication(model, files.reference.version, str(to), (), tried=False)
