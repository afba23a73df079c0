"""Names of people in what is stored: keyed pseudonyms, found again after a change of key."""

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.errors import BadInput
from infra.identifiers import RequestId
from infra.keys.pseudonyms import unkeyed
from infra.settings import Settings, use_workspace
from tasks import erasure
from tasks.records import Request
from tasks.traffic.masking import redacted

PERSON = "jo@acme.com"


def stored(**fields: str) -> Request:
    named = {"tenant": "acme", "domain": "", "language": "", **fields}
    return redacted(
        Request(RequestId(PERSON), datetime(2026, 1, 1, tzinfo=UTC), payload="hello", **named)
    )


def test_a_pseudonym_is_stable_and_cannot_be_made_without_the_key(
    workspace: Settings, tmp_path: Path
) -> None:
    first = stored(tenant=PERSON)
    assert first == stored(tenant=PERSON)
    assert first.tenant.startswith("redacted-")
    assert PERSON not in repr(first)
    assert first.tenant != unkeyed(PERSON)
    use_workspace(tmp_path / "another")
    assert stored(tenant=PERSON).tenant != first.tenant


@pytest.mark.parametrize(
    "name",
    ["DE89370400440532013000", "536-90-4399", "call +44 20 7946 0958", "sk-0123456789abcdef0"],
)
def test_names_are_read_by_the_same_recognizers_as_samples(workspace: Settings, name: str) -> None:
    request = stored(tenant=name, model_version=name, domain=name)
    assert name not in repr(request)


@pytest.mark.parametrize("name", ["acme", "v2026.11.28", "20260105123456", "a3f9d81c2b6e4f50a3f9"])
def test_ordinary_names_stay(workspace: Settings, name: str) -> None:
    request = stored(tenant=name, model_version=name)
    assert (request.tenant, request.model_version) == (name, name)


def test_after_a_change_of_key_what_was_stored_before_is_still_found(workspace: Settings) -> None:
    before = stored(tenant=PERSON)
    assert workspace.pseudonym_keys().replace(drop=False) == 1
    after = stored(tenant=PERSON)
    assert after.tenant != before.tenant
    act = erasure.new_act("tenant", PERSON)
    assert act.is_about(before)
    assert act.is_about(after)
    assert act.names(unkeyed(PERSON))
    assert not act.is_about(stored(tenant="acme"))
    assert erasure.parse_act(erasure.dump_act(act), where="here") == act


def test_nothing_leads_to_what_a_dropped_key_named(workspace: Settings) -> None:
    before = stored(tenant=PERSON)
    assert workspace.pseudonym_keys().replace(drop=True) == 0
    assert not erasure.new_act("tenant", PERSON).is_about(before)


def test_damaged_keys_are_said_and_not_replaced(workspace: Settings) -> None:
    stored(tenant=PERSON)
    path = workspace.root / "keys" / "pseudonyms.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("not a key")
    with pytest.raises(BadInput, match="backup"):
        erasure.new_act("tenant", PERSON)
    assert path.read_text() == "not a key"


SPILLING = """
import sys
from tasks.traffic.formats import spill
spill.CACHE_KILOBYTES = 100
with spill.spill("CREATE TABLE t (x TEXT)") as database:
    for number in range(20_000):
        database.execute("INSERT INTO t VALUES (?)", ("personal " * 20,))
    print("spilled", flush=True)
    sys.stdin.read()
"""


def test_nothing_that_was_spilled_is_left_after_a_kill(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SPILLING],
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"spilled\n"
    open_files = [str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert any(str(tmp_path) in name for name in open_files), "it lies on the disk, not in memory"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []
