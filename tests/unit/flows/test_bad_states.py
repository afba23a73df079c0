"""One model's bad state stops no other's schedule, reconciliation, status or measures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
Damage = Callable[[Path], object]


def register_two(folder: Path) -> None:
    from tasks.models.catalog import register
    from tasks.promotion import journal
    from tasks.promotion.ledger import EntryKind, body

    for name in ("bad", "good"):
        shutil.copytree(EXAMPLES / "digits", folder / name)
        path = folder / name / "model.yaml"
        path.write_text(path.read_text().replace("name: digits", f"name: {name}"))
        register(path)
        entry = body(EntryKind.REFUSED, actor="a", reason="r", version="1")
        for _ in range(2):
            journal.commit(name, lambda _, entry=entry: entry)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Register two models once; each test damages a copy."""
    from tests.conftest import pointed_at

    folder = tmp_path_factory.mktemp("two")
    for _ in pointed_at(folder / "workspace"):
        register_two(folder)
    return folder / "workspace"


def registration(store: Path) -> Path:
    digest = json.loads((store / "models/bad/current").read_text())["digest"]
    return store / "models/bad" / str(digest)


def entries(store: Path) -> list[Path]:
    return sorted((store / "ledger/bad").rglob("*.json"))


def rewritten(file: str, before: str, after: str) -> Damage:
    def damage(store: Path) -> None:
        path = registration(store) / file
        text = path.read_text()
        assert before in text
        path.chmod(0o600)
        path.write_text(text.replace(before, after))

    return damage


def written(path: Callable[[Path], Path], data: bytes) -> Damage:
    def damage(store: Path) -> None:
        path(store).chmod(0o600)
        path(store).write_bytes(data)

    return damage


DAMAGES: dict[str, Damage] = {
    "its pointer is no JSON": written(lambda store: store / "models/bad/current", b"{"),
    "its pointer is no text": written(lambda store: store / "models/bad/current", b"\xff\xfe"),
    "its pointer names a number": written(
        lambda store: store / "models/bad/current", b'{"digest": 5}'
    ),
    "its pointer names nothing": written(
        lambda store: store / "models/bad/current", json.dumps({"digest": "0" * 64}).encode()
    ),
    "its spec is gone": lambda store: (registration(store) / "spec.yaml").unlink(),
    "its spec is no text": written(lambda store: registration(store) / "spec.yaml", b"\xff\xfe"),
    "its spec is no YAML": written(lambda store: registration(store) / "spec.yaml", b"name: ["),
    "its spec is of another version": rewritten("spec.yaml", "version: 1", "version: 99"),
    "its zone is unknown here": rewritten("spec.yaml", "timezone: UTC", "timezone: Mars/Olympus"),
    "its zone is this host's": rewritten("spec.yaml", "timezone: UTC", "timezone: localtime"),
    "its date never comes": rewritten("spec.yaml", 'cron: "0 3 * * *"', 'cron: "0 3 30 2 *"'),
    "an entry is no JSON": written(lambda store: entries(store)[0], b"{"),
    "an entry is no object": written(lambda store: entries(store)[1], b"[]"),
    "an entry is missing": lambda store: entries(store)[0].unlink(),
    "an entry is another's": lambda store: shutil.copy(
        entries(store)[1].parent.parent / "good" / entries(store)[1].name, entries(store)[1]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_bad_of_one_model_stops_no_other(
    kept: Path, tmp_path: Path, damage: Damage
) -> None:
    from flows import measures
    from flows.deployments import maintenance_deployment
    from flows.queries import views
    from tests.conftest import pointed_at

    shutil.copytree(kept, tmp_path / "workspace")
    for settings in pointed_at(tmp_path / "workspace"):
        damage(settings.root / "store")
        deployments = {name: maintenance_deployment(name) for name in ("bad", "good")}
        assert deployments["good"] is not None
        bad, good = views.all_models()
        assert (good.name, good.task, good.problem) == ("good", "image-classification", None)
        assert bad.name == "bad"
        assert bad.problem is not None or deployments["bad"] is None
        readable = {
            sample.labels["model"]: sample.value
            for sample in measures.live_samples()
            if sample.metric == "requant_ledger_readable"
        }
        assert readable["good"] == 1


def test_status_says_what_cannot_be_read(workspace: Settings, tmp_path: Path) -> None:
    from flows.queries import views
    from flows.reconcile import _attempted

    register_two(tmp_path)
    store = workspace.root / "store"
    DAMAGES["an entry is no JSON"](store)
    assert _attempted("bad").failed
    assert not _attempted("good").failed
    bad, _ = views.all_models()
    assert (bad.task, bad.champion) == ("image-classification", None)
    assert bad.problem is not None
    assert "ledger" in bad.problem
    DAMAGES["its pointer is no JSON"](store)
    bad, _ = views.all_models()
    assert bad.problem is not None
    assert "models/bad/current is damaged" in bad.problem
