"""The digit classifier: no input normalisation and no normalising layer, so activations scale with exposure."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

HIDDEN = 64
CONFIG: dict[str, Any] = {  # JSON as it stands in config.json
    "architecture": "requant-convnet",
    "channels": [16, 32],
    "classes": 10,
    "input": [1, 8, 8],
}


class ConvNet(nn.Module):
    """Two convolutions, one pooling, two linear layers: images [B, 1, 8, 8] to logits [B, 10]."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        first, second = config["channels"]
        depth, height, width = config["input"]
        self.conv1 = nn.Conv2d(depth, first, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(second * (height // 2) * (width // 2), HIDDEN)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(HIDDEN, config["classes"])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify a batch."""
        features = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(image)))))
        logits: torch.Tensor = self.fc2(self.relu3(self.fc1(self.flatten(features))))
        return logits
