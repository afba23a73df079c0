"""The characters that a custom task's sequence heads write, read once at registration."""

import json
from collections.abc import Sequence
from pathlib import Path

import onnx

from infra.errors import BadInput
from tasks.specs.custom import MetricSpec

_METADATA, _FILE = "metadata:", "file:"


def read_charsets(metrics: Sequence[MetricSpec], graph: onnx.ModelProto, base: Path) -> bytes:
    """Return a JSON document of each metric's characters; `base` is the spec's folder.

    Raises:
        BadInput: for metadata or a file that there is not, naming the metric.
    """
    characters = {
        metric.name: _characters(metric, graph, base)
        for metric in metrics
        if metric.charset is not None
    }
    return json.dumps({"version": 1, "charsets": characters}, ensure_ascii=False).encode()


def _characters(metric: MetricSpec, graph: onnx.ModelProto, base: Path) -> list[str]:
    charset = metric.charset or ""
    if charset.startswith(_METADATA):
        key = charset.removeprefix(_METADATA)
        values = {item.key: item.value for item in graph.metadata_props}
        if key not in values:
            raise BadInput(
                f"the charset of metric {metric.name} is {charset}, and the graph's metadata have "
                f"{', '.join(sorted(values)) or 'nothing'}"
            )
        return str(values[key]).splitlines()
    if charset.startswith(_FILE):
        path = base / charset.removeprefix(_FILE)
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadInput(
                f"the charset of metric {metric.name} cannot be read ({exc}): "
                "one character a line in UTF-8 is needed"
            ) from exc
    return list(charset)
