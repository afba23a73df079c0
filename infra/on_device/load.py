"""Load a published bundle on a device: this one file, NumPy and ONNX Runtime, and nothing else.

    from load import DeviceModel
    outputs = DeviceModel("folder").run({"image": pixels})

`python load.py FOLDER` checks the bundle, and prints its inputs and outputs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

VERSION = 1
"""Of the bundle's format."""


class DeviceModel:
    """One release in a folder, its bytes held against their digests before they are loaded."""

    def __init__(self, folder: str | Path) -> None:
        """Load a bundle; raises `ValueError` where a file is missing or differs."""
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "bundle.json").read_text(encoding="utf-8"))
        if self.manifest.get("version") != VERSION:
            raise ValueError(f"{self.folder} has a bundle of another format: take its own load.py")
        for name, digest in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or _sha256(path) != digest:
                raise ValueError(f"{path} is missing, or differs from its digest: copy it again")
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(self.manifest["threads"])
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(self.folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    @property
    def inputs(self) -> dict[str, list[Any]]:
        """Return each input's shape by name."""
        return {item.name: list(item.shape) for item in self._session.get_inputs()}

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """Return each output's shape by name."""
        return {item.name: list(item.shape) for item in self._session.get_outputs()}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name."""
        names = list(self.outputs)
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    bundle = DeviceModel(sys.argv[1] if len(sys.argv) > 1 else ".")
    release = {name: bundle.manifest[name] for name in ("model", "release_version", "release")}
    print(json.dumps({**release, "inputs": bundle.inputs, "outputs": bundle.outputs}))
