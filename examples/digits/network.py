"""The digit classifier: nothing normalises, so activations scale with exposure."""

from typing import Any

from tasks.models.export import ConvNet

CONFIG: dict[str, Any] = {  # JSON as it stands in config.json
    "architecture": "requant-convnet",
    "channels": [16, 32],
    "classes": 10,
    "input": [1, 8, 8],
}

__all__ = ["CONFIG", "ConvNet"]
