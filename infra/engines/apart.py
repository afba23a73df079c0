"""A build in a process of its own: a builder is native code, and may end with its process."""

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from infra.canonical import canonical, sha256
from infra.engines import open_target
from infra.engines.port import Profiles, Shapes, each_profile
from infra.errors import Refused, Unavailable
from infra.settings import settings

TIMEOUT_S = 1800
_REFUSED, _UNAVAILABLE = 3, 4
_answers: dict[str, str | None] = {}
"""Of graphs, shapes and devices, by digest: the builder's refusal, None where it built."""


def require_build(target: str, graph: bytes, profiles: Profiles) -> None:
    """Build a graph in another process, and keep nothing of it but whether it builds.

    The answer is remembered by this process: it follows from graph, shapes, device and builder.

    Raises:
        Refused: The target cannot build the graph, in its own words, or its builder crashed.
        Unavailable: The target cannot build anything here.
    """
    shapes = [
        {name: asdict(item) for name, item in profile.items()} for profile in each_profile(profiles)
    ]
    device = settings().tensorrt_rtx_capability
    question = sha256(canonical([target, device, shapes, sha256(graph)]))
    if question not in _answers:
        _answers[question] = _asked(target, graph, shapes)
    if (refusal := _answers[question]) is not None:
        raise Refused(refusal)


def _asked(target: str, graph: bytes, shapes: object) -> str | None:
    """Return the builder's words where it refuses; None where it builds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(graph)
        command = [sys.executable, "-m", "infra.engines.apart", target, str(path)]
        # The command is this module, by this interpreter.
        try:
            done = subprocess.run(  # noqa: S603
                command,
                input=json.dumps(shapes),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(f"{target} was still building after {TIMEOUT_S} s") from exc
    words = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise Refused(f"{target} could not build the engine: its builder crashed ({name})")
    if done.returncode == _REFUSED:
        return words
    if done.returncode:
        why = words or (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise Unavailable(why)
    return None


def main(target: str, path: str) -> int:
    """Build, and print why not."""
    profiles = [
        {name: Shapes(**{key: tuple(dims) for key, dims in item.items()}) for name, item in one}
        for one in (profile.items() for profile in json.load(sys.stdin))
    ]
    try:
        open_target(target).attempt(Path(path).read_bytes(), profiles)
    except Refused as exc:
        print(" ".join(str(exc).split()))
        return _REFUSED
    except Unavailable as exc:
        print(" ".join(str(exc).split()))
        return _UNAVAILABLE
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
