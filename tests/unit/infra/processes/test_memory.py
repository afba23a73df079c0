"""A container's limit counts, and work that it leaves no room for is refused with figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import Unavailable
from infra.processes.memory import available, require_memory

GB = 1_000_000_000


def machine(root: Path, free: int, groups: str, files: dict[str, str]) -> Path:
    """Write a root folder whose `proc` and `sys` say this."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"jobs/one/memory.max": f"{3 * GB}\n", "jobs/one/memory.current": f"{GB}\n"}
V1 = {
    "memory/job/memory.limit_in_bytes": f"{3 * GB}\n",
    "memory/job/memory.usage_in_bytes": f"{GB}\n",
}


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/jobs/one\n", V2),
        ("0::/jobs/one/deeper\n", V2),
        ("0::/not/visible/here\n", {"memory.max": f"{3 * GB}", "memory.current": f"{GB}"}),
        ("4:memory:/job\n1:cpu:/\n0::/\n", V1),
        ("4:cpu,memory:/job/inner\n", V1),
    ],
    ids=["own group", "group above", "namespace", "version 1", "version 1, group above"],
)
def test_a_groups_limit_counts_and_not_the_hosts(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    assert available(machine(tmp_path, 64 * GB, groups, files)) == 2 * GB


def test_pages_of_files_that_nobody_uses_can_be_had(tmp_path: Path) -> None:
    files = V2 | {"jobs/one/memory.stat": f"anon 5\ninactive_file {GB // 2}\n"}
    assert available(machine(tmp_path, 64 * GB, "0::/jobs/one\n", files)) == 2 * GB + GB // 2


def test_the_host_counts_where_it_has_less_or_no_group_has_a_limit(tmp_path: Path) -> None:
    host = GB // 1024 * 1024
    assert available(machine(tmp_path / "a", GB, "0::/jobs/one\n", V2)) == host
    unlimited = {"jobs/one/memory.max": "max\n", "jobs/one/memory.current": "5\n"}
    assert available(machine(tmp_path / "b", GB, "0::/jobs/one\n", unlimited)) == host


def test_a_system_that_does_not_tell_refuses_nothing(tmp_path: Path) -> None:
    assert available(tmp_path) is None
    require_memory(10**15, "work", "wait", root=tmp_path)


def test_this_machine_tells() -> None:
    found = available()
    assert found is not None
    assert 1e7 < found < 1e14


def test_too_little_is_refused_with_both_figures_and_what_to_do(tmp_path: Path) -> None:
    root = machine(tmp_path, 64 * GB, "0::/jobs/one\n", V2)
    require_memory(2 * GB, "quantizing x", "free some", root=root)
    with pytest.raises(
        Unavailable,
        match=r"^quantizing x needs about 2\.1 GB of memory, and this process can have 2\.0 GB: fr",
    ):
        require_memory(21 * GB // 10, "quantizing x", "free some", root=root)
