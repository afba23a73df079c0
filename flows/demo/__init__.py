"""The whole product on two real models, in seven scenes; and a language model in three.

Every decision is computed from the traffic that a scene writes. A scene states what it should show.
When the loop decides otherwise, the scene is not as described and the demo fails.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flows.orchestration.runtime import orchestrator
from infra.errors import BadInput
from infra.settings import settings

if TYPE_CHECKING:
    from flows.demo.played import Played
    from flows.demo.stage import Stage

Scene = Literal["all", "language-model"]
"""The seven scenes, or those of a language model."""


@dataclass(frozen=True, slots=True)
class DemoScene:
    """One scene as it came out."""

    number: int
    title: str
    lines: tuple[str, ...]
    as_described: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class GroupChange:
    """One group of new traffic, before and after the champion changed."""

    model: str
    traffic: str
    metric: str
    before: float
    after: float
    flips_before: int
    flips_after: int
    latency: float  # of the champion after, ratio to full precision
    size: float


@dataclass(frozen=True, slots=True)
class Story:
    """The whole demo."""

    scenes: tuple[DemoScene, ...]
    summary: tuple[GroupChange, ...]
    reports: tuple[str, ...]
    complete: bool
    seconds: float

    @property
    def as_described(self) -> bool:
        """Return whether every scene was played and came out as it says."""
        return self.complete and all(scene.as_described for scene in self.scenes)


def run(say: Callable[[str, float], object], which: Scene = "all") -> Story:
    """Play scenes in a fresh workspace.

    Raises:
        BadInput: It is not the demo's own.
        Unavailable: The weights of the language model are not installed.
    """
    started = time.perf_counter()
    root = settings().root
    if root.name != "demo":
        raise BadInput(
            f"the demo would erase {root}: run it in a workspace whose last folder is called demo"
        )
    if which == "language-model":
        from flows.demo.language_weights import require_weights

        require_weights()
    shutil.rmtree(root, ignore_errors=True)
    with orchestrator(settings()):
        from flows.demo.stage import Stage
        from flows.orchestration.progress import listening

        stage, scenes, wanted = Stage(), [], _scenes(which)
        for number, (title, play) in enumerate(wanted.items(), start=1):
            begun = time.perf_counter()
            say(f"scene {number}: {title}", 0.0)
            with listening(say):
                problems, lines = play(stage)
            lines += [f"expected otherwise: {problem}" for problem in problems]
            scenes.append(
                DemoScene(number, title, tuple(lines), not problems, time.perf_counter() - begun)
            )
            if problems:
                break
        complete = len(scenes) == len(wanted)
    seconds = time.perf_counter() - started
    return Story(tuple(scenes), tuple(stage.summary), tuple(stage.reports), complete, seconds)


def _scenes(which: Scene) -> Mapping[str, Callable[["Stage"], "Played"]]:
    if which == "language-model":
        from flows.demo import language_model

        return language_model.SCENES
    from flows.demo import scenes

    return scenes.SCENES
