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


def package_of(path: Path) -> str:
    """Return the package that a module is of."""
    return path.relative_to(ROOT).parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imported(path: Path) -> frozenset[str]:
    """Top-level packages that a module imports anywhere: also inside functions, and by name."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
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


def importing(package: str) -> list[Path]:
    """Modules that import a package anywhere; somebody does, or the rule about it is void."""
    found = [path for path in SOURCES if package in imported(path)]
    assert found
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_there_is_something_to_look_at() -> None:
    assert {package_of(path) for path in SOURCES} == set(PACKAGES)
    assert len(SOURCES) > 500
    assert "onnxruntime" in imported(ROOT / "infra/engines/onnxruntime_cpu.py")


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


def test_vendors_are_named_only_in_infra() -> None:
    outside = (path for path in SOURCES if package_of(path) != "infra")
    assert not {name_of(path): named for path in outside if (named := imported(path) & VENDORS)}


def test_prefect_is_imported_only_by_flows_and_what_makes_a_step_or_a_schedule() -> None:
    outside = {name_of(path) for path in importing("prefect") if package_of(path) != "flows"}
    assert outside <= {"tasks/step.py", "tasks/specs/schedule.py"}


def test_evidently_is_imported_only_by_the_drift_report() -> None:
    report = {"tasks/drift/report/page.py", "tasks/drift/report/server.py"}
    assert {name_of(path) for path in importing("evidently")} <= report


def test_pure_modules_of_a_stage_do_not_import_steps() -> None:
    assert not [
        f"{name_of(path)}:{node.lineno} {node.module}"
        for path in SOURCES
        if package_of(path) == "tasks" and path.name != "steps.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(".steps")
    ]


def test_which_form_a_model_has_is_asked_in_one_place() -> None:
    """Whatever else differs by it stands in a stage's `forms`, or in a table by form (ADR 55)."""
    named = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Form"
    }
    assert named == {
        "tasks/specs/form.py",
        "tasks/models/catalog.py",  # refuses to load a checkpoint's index as a graph
        "tasks/publishing/served_by.py",  # what serves it is no step of the loop
    }


def test_a_modules_name_says_what_it_knows() -> None:
    assert not [
        name_of(path)
        for path in SOURCES
        if {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & VAGUE
    ]


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


def test_no_module_bears_the_name_of_a_dependency() -> None:
    own = {
        name_of(path): path.parent.name if path.name == "__init__.py" else path.stem
        for path in SOURCES
    }
    assert not {path: name for path, name in own.items() if name in dependencies()}


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


def test_every_public_function_and_class_is_explained() -> None:
    assert not [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in public(path)
        if not ast.get_docstring(node)
    ]


def test_every_module_is_explained() -> None:
    assert not [
        name_of(path)
        for path in SOURCES
        if path.read_text().strip() and not ast.get_docstring(tree(path))
    ]


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


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in ALL}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


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
