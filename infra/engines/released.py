"""Load what a release carries, on whatever this machine can execute."""

from collections.abc import Sequence

from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import Unavailable
from infra.releases import Release


def load_released(release: Release, targets: Sequence[str]) -> Engine:
    """Load the release's engine for the first target that runs here.

    Its bytes are verified before they are loaded.

    Raises:
        Unavailable: None of its engines runs here.
        Tampered: The bytes differ from the manifest.
    """
    reasons = []
    for name in targets:
        plan = f"engines/{name}/plan"
        if plan not in release.files:
            continue
        try:
            target = open_target(name)
        except Unavailable as exc:
            reasons.append(str(exc))
            continue
        reason = target.why_not_executable()
        if reason is None:
            metadata = f"engines/{name}/plan.json"
            return target.load(
                release.file(plan), release.file(metadata) if metadata in release.files else None
            )
        reasons.append(reason)
    raise Unavailable(
        f"no engine of release {release.digest[:12]} runs here: "
        f"{'; '.join(reasons) or 'it has none'}"
    )
