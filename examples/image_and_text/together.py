"""Two models of one gateway are asked at once, and both share one latency budget.

`python -m examples.image_and_text.together TEXT` asks `minilm` and `digits` of the workspace's
gateway, whose key it reads from `REQUANT_KEY` (`requant key`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

ADDRESS = "http://127.0.0.1:8500"
BUDGET_S = 0.25
"""For both answers together; the stricter model's budget is what the other leaves."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class AskedModel:
    """One model, and the name of its only input."""

    name: str
    input: str


@dataclass(frozen=True, slots=True, eq=False)
class BothAnswers:
    """What came within the budget; None: it did not."""

    image: NDArray[np.float32] | None
    text: NDArray[np.float32] | None
    seconds: float

    @property
    def complete(self) -> bool:
        """Return whether both came in time."""
        return self.image is not None and self.text is not None


class ImageAndText:
    """A client of two models."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        image: AskedModel,
        text: AskedModel,
        budget_s: float = BUDGET_S,
    ) -> None:
        self._client, self._image, self._text, self._budget_s = client, image, text, budget_s

    async def ask(self, image: NDArray[np.float32], text: str) -> BothAnswers:
        """Ask both at once; whichever has not answered when the budget is over is given up.

        Giving up closes the connection, so that what still waits at the gateway is not computed.

        Raises:
            httpx.HTTPStatusError: The gateway refuses one of the requests.
        """
        began = time.perf_counter()
        pictured = {"shape": list(image.shape), "datatype": "FP32", "data": image.tolist()}
        written = {"shape": [1], "datatype": "BYTES", "data": [text]}
        seen, read = await asyncio.gather(
            self._within(self._infer(self._image, pictured)),
            self._within(self._infer(self._text, written)),
        )
        return BothAnswers(seen, read, time.perf_counter() - began)

    async def _within(self, asking: Awaitable[Answer]) -> Answer | None:
        try:
            return await asyncio.wait_for(asking, self._budget_s)
        except TimeoutError:
            return None

    async def _infer(self, model: AskedModel, tensor: Mapping[str, Any]) -> NDArray[np.float32]:
        body = {"inputs": [{"name": model.input, **tensor}]}
        answer = await self._client.post(f"/v2/models/{model.name}/infer", json=body)
        answer.raise_for_status()
        output = answer.json()["outputs"][0]
        return np.asarray(output["data"], np.float32).reshape(output["shape"])


async def main(text: str) -> None:
    """Ask about a text and an empty image."""
    headers = {"Authorization": f"Bearer {os.environ['REQUANT_KEY']}"}
    async with httpx.AsyncClient(base_url=ADDRESS, headers=headers) as client:
        both = ImageAndText(client, AskedModel("digits", "image"), AskedModel("minilm", "text"))
        answers = await both.ask(np.zeros((1, 1, 8, 8), np.float32), text)
    digit = None if answers.image is None else int(answers.image.argmax())
    width = None if answers.text is None else answers.text.shape[-1]
    sys.stdout.write(f"digit {digit}, embedding {width}, {answers.seconds * 1e3:.0f} ms\n")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:])))
