"""What is counted and how.

Profiles of other settings cannot be merged, and are stored under another name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from infra.errors import BadInput

VERSION = 1
"""Of a stored profile's format."""
RESERVOIR = 1024
NAMES = ("tenant", "domain", "language", "model_version", "decision")
NUMBERS = ("latency_ms",)


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What is counted of one model's traffic."""

    seed: int = 0
    names: tuple[str, ...] = NAMES  # columns of strings to count
    numbers: tuple[str, ...] = NUMBERS  # columns of numbers to bin
    reservoir: int = RESERVOIR  # requests kept as a sample; 0: none, and ids are not looked at
    payloads: bool = True  # describe texts and tensors
    fourier_features: int = 128  # random ones of each embedding; 0: none
    bandwidth: float = 0.7  # of their kernel, where an embedding has length 1
    tensor_scale: float = 1.0  # what a tensor's elements are divided by before they are embedded

    def __post_init__(self) -> None:
        """Raise `BadInput` on what cannot be counted."""
        if self.reservoir < 0 or self.fourier_features < 0:
            raise BadInput(
                f"a profile cannot keep {self.reservoir} requests or {self.fourier_features} "
                "Fourier features: give 0 or more"
            )
        if not self.bandwidth > 0 or not self.tensor_scale > 0:
            raise BadInput(
                f"a kernel of bandwidth {self.bandwidth} on tensors of scale {self.tensor_scale} "
                "measures nothing: "
                "give numbers above 0"
            )

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 over every field."""
        return sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """Return every field as it is stored: the Fourier features by their older name, `waves`."""
        fields = asdict(self)
        fields["waves"] = fields.pop("fourier_features")
        return fields

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> ProfileSettings:
        """Read what `document` gave, also after it was JSON."""
        fields = {**document, "fourier_features": document["waves"]}
        del fields["waves"]
        lists = {name: tuple(fields[name]) for name in ("names", "numbers")}
        return cls(**{**fields, **lists})
