"""Who may import whom, where vendors may be named, and what every module owes its reader."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from importlinter.api import read_configuration

from infra.stores.layout import KINDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "infra", "dashboards")
VENDORS = {
    "mlflow",
    "boto3",
    "botocore",
    "tensorrt",
    "tensorrt_rtx",
    "onnxruntime",
    "dask",
    "distributed",
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
LONGEST = 500  # lines
LONGEST_STEPS = (
    150  # lines: what a step does beside loading and storing is a function of its package
)
FULLEST = 12  # modules of one folder, beside its `__init__.py`
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=SOURCES, ids=name_of)
def source(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a module imports anywhere: also inside functions, and by name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif (
            isinstance(node, ast.Call)
            and _called(node) in ("import_module", "__import__")
            and node.args
        ):
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.partition(".")[0]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_there_is_something_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)
    assert "onnxruntime" in set(imported(ROOT / "infra/engines/onnxruntime_cpu.py"))


def test_the_import_contracts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lint in a process of its own: import-linter silences every logger that exists by then."""
    monkeypatch.chdir(ROOT)
    assert len(read_configuration()["contracts_options"]) >= 4
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    linted = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_vendors_are_named_only_in_infra(source: Path) -> None:
    if source.relative_to(ROOT).parts[0] != "infra":
        assert not set(imported(source)) & VENDORS


def test_prefect_is_imported_only_by_flows_what_makes_a_step_and_whoever_asks_what_it_can_schedule(
    source: Path,
) -> None:
    asks = name_of(source) in ("tasks/step.py", "tasks/specs/schedule.py")
    if source.relative_to(ROOT).parts[0] != "flows" and not asks:
        assert "prefect" not in set(imported(source))


def test_evidently_is_imported_only_by_the_drift_report(source: Path) -> None:
    if name_of(source) not in ("tasks/drift/report/page.py", "tasks/drift/report/server.py"):
        assert "evidently" not in set(imported(source))


def test_pure_modules_of_a_stage_do_not_import_steps(source: Path) -> None:
    if source.relative_to(ROOT).parts[0] == "tasks" and source.name != "steps.py":
        modules = {
            node.module or "" for node in ast.walk(tree(source)) if isinstance(node, ast.ImportFrom)
        }
        assert not [module for module in modules if module.endswith(".steps")]


def test_a_modules_name_says_what_it_knows(source: Path) -> None:
    parts = {part.removesuffix(".py") for part in source.relative_to(ROOT).parts}
    assert not parts & VAGUE


@cache
def dependencies() -> frozenset[str]:
    """Return the import names of everything that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {re.split(r"[\[<>=!~; ]", item)[0].lower().replace("-", "_") for item in wanted}
    found = {
        module
        for module, owners in packages_distributions().items()
        if {o.lower().replace("-", "_") for o in owners} & names
    }
    return frozenset(names | found)


def test_no_module_bears_the_name_of_a_dependency(source: Path) -> None:
    own = source.parent.name if source.name == "__init__.py" else source.stem
    assert own not in dependencies()


def test_the_dependencies_are_known() -> None:
    assert {"onnx", "prefect", "mlflow", "yaml", "torch"} <= dependencies()
    assert requires("requant")


def public(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of public classes.

    The signatures that `overload` adds to a function are left out.
    """
    pending: list[ast.AST] = [tree(path)]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not (
                node.name.startswith("_") or _is_overload(node)
            ):
                yield node
                if isinstance(node, ast.ClassDef):
                    pending.append(node)


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(item, ast.Name) and item.id == "overload" for item in node.decorator_list)


def test_every_public_function_and_class_is_explained(source: Path) -> None:
    assert not [
        f"{name_of(source)}:{node.lineno} {node.name}"
        for node in public(source)
        if not ast.get_docstring(node)
    ]


def test_every_module_is_explained(source: Path) -> None:
    if source.read_text().strip():
        assert ast.get_docstring(tree(source))


def test_no_two_classes_bear_the_same_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in (*SOURCES, *(ROOT / "benchmarks").rglob("*.py")):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name_of(path))
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def test_only_the_layout_spells_keys_of_the_store() -> None:
    """The console's address of a report is its key, and the beginning of it is spelt there."""
    folders = {kind.template.partition("/")[0] for kind in KINDS}
    spelt = re.compile(rf"({'|'.join(sorted(folders))})/[^ ]*")
    strangers = [
        f"{name_of(path)}:{node.lineno} {first.value}"
        for path in SOURCES
        if name_of(path) not in ("infra/stores/layout.py", "dashboards/console/pages/stored.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.JoinedStr) and node.values
        for first in node.values[:1]
        if isinstance(first, ast.Constant) and spelt.fullmatch(str(first.value))
    ]
    assert not strangers


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_no_file_is_longer_than_five_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_steps_hold_no_more_than_loading_and_storing() -> None:
    lengths = {
        name_of(path): len(path.read_text().splitlines())
        for path in SOURCES
        if path.name == "steps.py"
    }
    assert len(lengths) >= 6
    assert not {name: length for name, length in lengths.items() if length > LONGEST_STEPS}


@pytest.mark.parametrize("top", [*PACKAGES, "benchmarks"])
def test_no_package_holds_more_modules_than_a_reader_can_scan(top: str) -> None:
    modules = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py"
    )
    assert not {package: count for package, count in modules.items() if count > FULLEST}
