"""One model behind the gateway: the release that answers now, its queue, and its sample."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.errors import NotFound, Unavailable
from infra.gateway.batching import DynamicBatcher
from infra.gateway.capture import Capture, ServedExchange
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.open_inference import Tensors
from infra.gateway.release import ServedRelease


class TooSlow(Unavailable):
    """The answer did not come within the time that requests are given."""


@dataclass(slots=True)
class Endpoint:
    """One model; one assignment swaps releases, and what runs on the old one ends there."""

    model: str
    batcher: DynamicBatcher
    metrics: GatewayMetrics
    capture: Capture[ServedExchange] | None = None
    timeout_s: float = 30.0
    release: ServedRelease | None = None
    reason: str = "no version is champion yet"  # why nothing, or not the champion, answers

    def publish(self, release: ServedRelease) -> None:
        """Let another release answer from the next request on; any thread may call it."""
        self.release = release
        self.metrics.serves(self.model, release.version)
        self.refuse("")

    def refuse(self, reason: str) -> None:
        """Note why the ledger's champion does not answer; empty: it does."""
        self.reason = reason
        self.metrics.refused(self.model, bool(reason))

    def current(self, version: str | None = None) -> ServedRelease:
        """Return the release that answers.

        Raises:
            Unavailable: None does.
            NotFound: Another version was asked for.
        """
        release = self.release
        if release is None:
            raise Unavailable(f"{self.model} cannot answer: {self.reason}")
        if version is not None and version != release.version:
            raise NotFound(
                f"version {version} of {self.model} is not served: version {release.version} is"
            )
        return release

    async def infer(
        self,
        tensors: Tensors,
        context: Mapping[str, str],
        *,
        id: str = "",
        version: str | None = None,
    ) -> tuple[ServedRelease, Tensors]:
        """Answer one request, and sample it.

        Raises:
            BadInput: The model does not read the tensors.
            Overloaded: Too many requests wait.
            TooSlow: It took longer than a request is given.
            Unavailable: No release answers.
        """
        release, began = self.current(version), time.perf_counter()
        feeds = release.front.feeds(tensors)
        release.signature.check(feeds)
        try:
            async with asyncio.timeout(self.timeout_s):
                outputs = await self.batcher.run(release, feeds)
        except TimeoutError:
            raise TooSlow(
                f"{self.model} did not answer within {self.timeout_s:g} s: send it again, or fewer "
                "at a time"
            ) from None
        took = (time.perf_counter() - began) * 1e3
        self.sample(release, lambda: release.front.payloads(tensors), context, id, took)
        return release, outputs

    def sample(
        self,
        release: ServedRelease,
        payloads: Sequence[object] | Callable[[], Sequence[object] | None],
        context: Mapping[str, str],
        id: str,
        latency_ms: float,
    ) -> None:
        """Keep an answered request if it is of the sample.

        Args:
            release: What answered.
            payloads: Of each request in the batch, or what makes them; None: they cannot be kept.
            context: What the caller said beside the input.
            id: The caller's own; empty where it gave none.
            latency_ms: How long the answer took.
        """
        # An id that a client uses twice must name two requests in the traffic.
        name = f"{id}-{uuid.uuid4().hex[:8]}" if id else uuid.uuid4().hex
        if self.capture is None or not self.capture.samples(name):
            return
        kept = payloads() if callable(payloads) else payloads
        if kept is None:
            self.metrics.captured(self.model, "no text")
            return
        now = datetime.now(UTC)
        for place, payload in enumerate(kept):
            request_id = name if len(kept) == 1 else f"{name}/{place}"
            self.capture.keep(
                ServedExchange(request_id, now, latency_ms, release.version, dict(context), payload)
            )
