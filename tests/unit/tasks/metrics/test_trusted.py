"""Metric functions of a user's own: where they may come from, and what they may not break."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput, Refused
from infra.settings import settings
from tasks.metrics.custom import trusted as own
from tasks.metrics.custom.trusted import Outputs, call, metric_functions, require_metrics
from tasks.specs.custom import MetricSpec
from tasks.trusted_code import load_function, locate, trusted_places

CASES: list[Outputs] = [{"y": np.array([1.0, 2.0])}, {"y": np.array([3.0, 4.0])}]
RIGHT = "def own(before, after, labels, domains):\n    return [0.5] * len(before)\n"


def metric(name: str = "requant_own:own", **changes: object) -> MetricSpec:
    fields = {"name": "own", "function": name, "direction": "lower", "budget": 0.1, **changes}
    return MetricSpec.model_validate(fields)


def trusting(monkeypatch: pytest.MonkeyPatch, *places: object) -> None:
    chosen = settings().model_copy(update={"trusted_metrics": ",".join(map(str, places))})
    monkeypatch.setattr(own, "settings", lambda: chosen)


def written(folder: Path, body: str, module: str = "requant_own") -> None:
    (folder / f"{module}.py").write_text(body)


def measured(spec: MetricSpec) -> NDArray[np.float64]:
    return call(metric_functions([spec])["own"], spec, CASES, CASES, ["a", None], ["x", "y"])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise KeyError('score')", "raised KeyError: 'score'"),
        ("import sys; sys.exit('enough')", "raised SystemExit: enough"),
        ("import os; os._exit(3)", r"ended its process \(exit status 3\)"),
        ("import os; os.kill(os.getpid(), 11)", r"ended its process \(SIGSEGV\)"),
        ("return [0.1]", r"returned shape \[1\] for 2 cases: one value a case is needed"),
        ("return [[0.1], [0.2]]", r"returned shape \[2, 1\] for 2 cases"),
        ("return 0.1", r"returned shape \[\] for 2 cases"),
        ("return [0.1, float('nan')]", "returned nan for case 1: give a finite number"),
        ("return [float('-inf'), 0.1]", "returned -inf for case 0"),
        ("return None", "returned NoneType, not numbers"),
        ("return [0.1, None]", "returned list, not numbers"),
        ("return ['0.1', '0.2']", "returned list, not numbers"),
        ("return [1j, 2j]", "returned list, not numbers"),
        ("return {0: 0.1, 1: 0.2}", "returned dict, not numbers"),
        ("return (value for value in (0.1, 0.2))", "returned generator, not numbers"),
        ("return [[0.1], [0.2, 0.3]]", "returned list, not numbers"),
        ("import numpy; return numpy.ma.array([1, 2], mask=[0, 1])", "returned nan for case 1"),
        (r"raise ValueError('\udcff')", r"raised ValueError: \\udcff$"),
        ("raise type('E', (Exception,), {'__str__': lambda _: 1 / 0})", "raised E"),
        ("import nowhere_to_be_found", "raised ModuleNotFoundError: No module named"),
        ("return labels[1].lower()", "raised AttributeError"),
    ],
)
def test_what_a_function_does_wrong_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    trusting(monkeypatch, tmp_path)
    written(tmp_path, f"def own(before, after, labels, domains):\n    {body}\n")
    with pytest.raises(BadInput, match=rf"^the metric own \(requant_own:own\) {why}[^\n]*$"):
        measured(metric())


def test_a_function_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, tmp_path)
    written(tmp_path, "def own(*_):\n    while True:\n        pass\n")
    with pytest.raises(BadInput, match=r"took longer than 1.5 s and was ended$"):
        measured(metric(time_limit=1.5))


def test_a_function_may_print_and_change_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trusting(monkeypatch, tmp_path)
    body = (
        "import os\nprint('hello')\n"
        "def own(before, after, labels, domains):\n"
        "    print('counting'); os.write(1, b'below')\n"
        "    before[0]['y'] += 5; labels.clear(); after.clear()\n"
        "    return [True, False]\n"
    )
    written(tmp_path, body)
    assert measured(metric()).tolist() == [1.0, 0.0]
    assert CASES[0]["y"].tolist() == [1.0, 2.0]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "counting" in printed.err
    assert "below" in printed.err


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("import nowhere_to_be_found\n", "cannot be imported: ModuleNotFoundError: No module"),
        ("def own(\n", "cannot be imported: SyntaxError"),
        ("import sys\nsys.exit()\n", "cannot be imported: SystemExit"),
        ("other = 1\n", "cannot be imported: requant_own has no function own"),
        ("own = 1\n", "cannot be imported: requant_own has no function own"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_at_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    trusting(monkeypatch, tmp_path)
    written(tmp_path, body)
    with pytest.raises(BadInput, match=rf"^the metric own: requant_own:own {why}[^\n]*$"):
        require_metrics([metric()])
    assert "requant_own" not in sys.modules


def test_a_module_is_imported_only_from_what_is_trusted(tmp_path: Path) -> None:
    written(tmp_path, RIGHT)
    name = "requant_own:own"
    for trusted in ((), ("other",), ("requant_ow",), (str(tmp_path / "nowhere"),)):
        with pytest.raises(Refused, match="is not trusted: name its package or its folder in"):
            locate(name, trusted)
    assert locate(name, trusted_places(f"other, {tmp_path}")).file == tmp_path / "requant_own.py"
    assert callable(load_function("json.decoder:JSONDecoder", ("json",)))
    with pytest.raises(BadInput, match="json has no module nowhere"):
        locate("json.nowhere:own", ("json",))


def test_a_package_whose_name_begins_like_a_trusted_one_is_not_trusted(tmp_path: Path) -> None:
    for name in ("requant_shop", "requant_shop_evil"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, "raise SystemExit('was run')\n", "__init__")
    for name in ("requant_shop_evil:own", "requant_shopping:own"):
        with pytest.raises(Refused, match="is not trusted"):
            locate(name, ("requant_shop",))


def test_a_folder_beside_a_trusted_one_is_not_trusted(tmp_path: Path) -> None:
    for name in ("shop", "shop-evil"):
        (tmp_path / name).mkdir()
    written(tmp_path / "shop-evil", RIGHT)
    with pytest.raises(Refused, match="is not trusted"):
        locate("requant_own:own", (str(tmp_path / "shop"),))


@pytest.mark.parametrize("link", ["requant_own.py", "requant_pack", "requant_pack/inner.py"])
def test_a_link_does_not_lead_out_of_a_trusted_folder(tmp_path: Path, link: str) -> None:
    trusted, outside = tmp_path / "trusted", tmp_path / "outside"
    for folder in (trusted, outside / "requant_pack"):
        folder.mkdir(parents=True)
    for name in ("requant_own", "inner"):
        written(outside, RIGHT, name)
        written(outside / "requant_pack", RIGHT, name)
    if link == "requant_pack/inner.py":
        (trusted / "requant_pack").mkdir()
        written(trusted / "requant_pack", "", "__init__")
    (trusted / link).symlink_to(outside / Path(link).name)
    if link == "requant_pack":
        (trusted / link).unlink()
        (trusted / link).symlink_to(outside / "requant_pack")
    names = {
        "requant_own.py": "requant_own:own",
        "requant_pack": "requant_pack.inner:own",
        "requant_pack/inner.py": "requant_pack.inner:own",
    }
    with pytest.raises(Refused, match=r"is a link to .*outside"):
        locate(names[link], (str(trusted),))


def test_a_trusted_folder_may_itself_be_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    written(tmp_path / "real", RIGHT)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    trusting(monkeypatch, tmp_path / "link")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "link")])
    assert measured(metric()).tolist() == [0.5, 0.5]


def test_a_module_of_another_place_does_not_stand_in_for_a_trusted_one(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def own(*_):\n    return []\n")
    with pytest.raises(Refused, match="a module json of another place comes first"):
        locate("json:own", (str(tmp_path),))


def test_a_module_that_changed_is_imported_again(tmp_path: Path) -> None:
    written(tmp_path, "def own():\n    return 1\n", "requant_changed")
    assert load_function("requant_changed:own", (str(tmp_path),))() == 1
    written(tmp_path, "def own():\n    return 'two'\n", "requant_changed")
    assert load_function("requant_changed:own", (str(tmp_path),))() == "two"


@pytest.mark.parametrize("name", ["own", ".own:own", "..own:own", "a b:own", "own:", "own:a.b"])
def test_a_function_is_named_by_its_module(name: str) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        metric(name)
