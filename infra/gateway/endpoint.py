"""One model behind the gateway: the release that answers now, its queue, and its sample."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from infra.errors import BadInput, NotFound, Unavailable
from infra.gateway.batching import DynamicBatcher, Overloaded
from infra.gateway.capture import Capture, ServedExchange
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.release import ServedRelease
from infra.gateway.steering.destination import Asking, Destination, Steering
from infra.gateway.steering.router import Why, length_of
from infra.gateway.steering.shadow import ShadowRuns
from infra.gateway.tracing import span
from infra.gateway.wire.open_inference import Tensors


class TooSlow(Unavailable):
    """The answer did not come within the time that requests are given."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request got."""

    destination: Destination
    outputs: Tensors

    @property
    def release(self) -> ServedRelease:
        """Return what answered."""
        return self.destination.release


@dataclass(slots=True)
class Endpoint:
    """One model; one assignment swaps releases, and what runs on the old one ends there."""

    model: str
    batcher: DynamicBatcher
    metrics: GatewayMetrics
    capture: Capture[ServedExchange] | None = None
    timeout_s: float = 30.0
    release: ServedRelease | None = None
    steering: Steering = field(default_factory=Steering)
    shadows: ShadowRuns | None = None
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
        self, tensors: Tensors, asking: Asking, *, id: str = "", version: str | None = None
    ) -> Answered:
        """Answer one request, by the tier that it belongs to, and sample it.

        Raises:
            BadInput: The model does not read the tensors, a guard blocks one, or there is no such
                tier.
            Overloaded: Too many requests wait.
            TooSlow: It took longer than a request is given.
            Unavailable: No release answers.
        """
        champion, began = self.current(version), time.perf_counter()
        feeds = champion.front.feeds(tensors)
        champion.signature.check(feeds)
        destination = Destination(champion)
        if version is None:
            destination = self.steering.destination(champion, asking, length_of(feeds))
        await self._admit(destination, tensors)
        try:
            async with asyncio.timeout(self.timeout_s):
                answered = await self._steered(
                    destination, asking, feeds, champion=champion, steered=version is None
                )
        except TimeoutError:
            self.steering.missed(destination)
            raise TooSlow(
                f"{self.model} did not answer within {self.timeout_s:g} s: send it again, or fewer "
                "at a time"
            ) from None
        seconds = time.perf_counter() - began
        self.metrics.steered(
            self.model, answered.destination.tier, answered.destination.why, seconds
        )
        release = answered.release
        payloads = partial(release.front.payloads, tensors)
        self.sample(release, payloads, asking.context, id, seconds * 1e3)
        return answered

    async def _admit(self, destination: Destination, tensors: Tensors) -> None:
        """Let the tier that is to answer judge the texts, and count by it what it says.

        Other requests are answered while a model judges.
        """
        front = destination.release.front
        tell = partial(self.metrics.guarded, self.model, "input", destination.tier)
        if front.takes_long:
            await asyncio.to_thread(front.admit, tensors, tell)
        else:
            front.admit(tensors, tell)

    async def _steered(
        self,
        destination: Destination,
        asking: Asking,
        feeds: Tensors,
        *,
        champion: ServedRelease,
        steered: bool,
    ) -> Answered:
        """Let a tier answer, and the higher one again where that answer is unsure."""
        began, release = time.perf_counter(), destination.release
        told = {"model": self.model, "version": release.version, "tier": destination.tier.value}
        try:
            with span("engine", told):
                outputs = await self.batcher.run(release, feeds)
        except (BadInput, Overloaded, asyncio.CancelledError):
            raise
        except Exception:
            self.steering.missed(destination)
            if destination.why is Why.FALLBACK and self.shadows is not None:
                self.steering.probe(self.shadows, champion, feeds)
            raise
        self.steering.saw(destination, time.perf_counter() - began)
        if not steered:
            return Answered(destination, outputs)
        if self.shadows is not None:
            self.steering.shadow(self.shadows, champion, destination, feeds, outputs)
        further = self.steering.again(destination, asking, outputs)
        if further is None:
            return Answered(destination, outputs)
        told |= {"version": further.release.version, "tier": further.tier.value}
        with span("engine", told):
            return Answered(further, await self.batcher.run(further.release, feeds))

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
        name = f"{id or uuid.uuid4().hex}~{uuid.uuid4().hex[:8]}"
        if self.capture is None or not self.capture.samples(name):
            return
        self.metrics.sampled(self.model)
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
