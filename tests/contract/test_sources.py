"""Every kind of source comes to a local folder, or is said to be missing in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from infra.errors import BadInput, NotFound, RequantError, Unavailable
from infra.sources import fetch
from infra.stores import open_store
from tests import graphs
from tests.contract.conftest import S3Server, free_port


def test_a_folder_is_taken_relative_to_the_spec(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    assert fetch("weights", base=tmp_path, cache=tmp_path / "cache") == tmp_path / "weights"
    assert fetch(".", base=tmp_path, cache=tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_a_missing_folder_is_bad_input_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'absent' is no folder") as caught:
        fetch("absent", base=tmp_path, cache=tmp_path)
    assert str(tmp_path / "absent") in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    with pytest.raises(BadInput):
        fetch("weights.bin", base=tmp_path, cache=tmp_path)


def test_a_folder_inside_an_installed_package_is_found(tmp_path: Path) -> None:
    assert (
        fetch("package:onnx/reference", base=tmp_path, cache=tmp_path) / "__init__.py"
    ).is_file()


@pytest.mark.parametrize(
    "name", ["package:not_installed/model", "package:not.installed/model", "package:", "package:/x"]
)
def test_a_missing_package_is_bad_input_that_says_how_to_get_the_examples(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="is not installed"):
        fetch(name, base=tmp_path, cache=tmp_path)


def test_a_missing_folder_of_a_package_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no folder 'absent'"):
        fetch("package:onnx/absent", base=tmp_path, cache=tmp_path)


# --- S3 -------------------------------------------------------------------------------------------
# --------------------


@pytest.fixture
def bucket(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    moto.admit(monkeypatch)
    return f"s3://{moto.new_bucket()}/models/tiny", moto.endpoint


def test_objects_under_a_prefix_are_copied_with_their_folders(
    bucket: tuple[str, str], tmp_path: Path
) -> None:
    url, endpoint = bucket
    store = open_store(url, endpoint_url=endpoint)
    store.put("config.json", b"{}")
    store.put("1_Pooling/config.json", b"[]")
    folder = fetch(url, base=tmp_path, cache=tmp_path / "cache", endpoint_url=endpoint)
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"[]"


def test_a_file_of_an_earlier_source_does_not_stay(bucket: tuple[str, str], tmp_path: Path) -> None:
    url, endpoint = bucket
    open_store(url, endpoint_url=endpoint).put("config.json", b"{}")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "model.onnx").write_bytes(b"of another source")
    folder = fetch(url, base=tmp_path, cache=cache, endpoint_url=endpoint)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_an_empty_prefix_is_bad_input(bucket: tuple[str, str], tmp_path: Path) -> None:
    url, endpoint = bucket
    with pytest.raises(BadInput, match="nothing lies under"):
        fetch(f"{url}/absent", base=tmp_path, cache=tmp_path / "cache", endpoint_url=endpoint)


def test_a_missing_bucket_is_said(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moto.admit(monkeypatch)
    with pytest.raises(RequantError, match="absent-bucket"):
        fetch(
            "s3://absent-bucket/x",
            base=tmp_path,
            cache=tmp_path / "cache",
            endpoint_url=moto.endpoint,
        )


# --- MLflow ---------------------------------------------------------------------------------------
# --------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Open an MLflow database that holds version 1 of `tiny`."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "tiny").mkdir()
    onnx.save(graphs.product(np.ones((4, 3), np.float32)), folder / "tiny" / "model.onnx")
    address = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(address, address)
    client.create_registered_model("tiny")
    client.create_model_version("tiny", (folder / "tiny").as_uri())
    return address


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Point MLflow at an address, until the test ends."""
    import mlflow

    before = mlflow.get_tracking_uri()

    def to(address: str) -> None:
        for name in (
            "MLFLOW_TRACKING_URI",
            "MLFLOW_REGISTRY_URI",
        ):  # what MLflow sets itself is undone with these
            monkeypatch.setenv(name, address)
        mlflow.set_tracking_uri(address)
        mlflow.set_registry_uri(address)

    yield to
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri("")  # nothing: the tracking server's again


@pytest.fixture
def tracked(registry: str, point: Callable[[str], None]) -> None:
    point(registry)


@pytest.mark.usefixtures("tracked")
def test_a_registered_onnx_model_is_downloaded(tmp_path: Path) -> None:
    folder = fetch("models:/tiny/1", base=tmp_path, cache=tmp_path / "cache")
    assert onnx.load(folder / "model.onnx").graph.node[0].op_type == "MatMul"


@pytest.mark.usefixtures("tracked")
@pytest.mark.parametrize("source", ["models:/absent/1", "models:/tiny/99", "models:/tiny@absent"])
def test_a_model_that_is_not_registered_is_not_found(source: str, tmp_path: Path) -> None:
    with pytest.raises((NotFound, BadInput), match=r"source: .* give models:/NAME/VERSION"):
        fetch(source, base=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "source", ["models:/", "models:/tiny", "models:/tiny/", "models:/tiny/1/weights"]
)
def test_an_address_that_names_no_version_is_bad_input(source: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names no version"):
        fetch(source, base=tmp_path, cache=tmp_path / "cache")


def test_a_registry_that_does_not_answer_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: Callable[[str], None]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    point(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match=r"MLflow did not give models:/tiny/1"):
        fetch("models:/tiny/1", base=tmp_path, cache=tmp_path / "cache")
