"""Champions in other servers' repositories: new directories, and nothing written over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml

from flows.publishing import checkpoints
from flows.publishing.device import publish_device
from flows.publishing.manifest import publish_kserve
from flows.publishing.triton import publish_triton
from infra.errors import BadInput, NotFound, Refused
from infra.settings import Settings, use_workspace
from infra.stores import open_store
from infra.stores.local import LocalStore
from tasks.promotion import journal, ledger
from tasks.promotion.acts.promoting import promote
from tests.integration.gateways import spoilt, write_example
from tests.integration.releases import released
from tests.triton_server import read_config, serving


@pytest.fixture
def digits(registry_workspace: Settings) -> Settings:
    """Register digits with one champion."""
    from tasks.models.catalog import register

    register(write_example(registry_workspace.root / "source", "digits"))
    champion(registry_workspace, 0.0)
    return registry_workspace


def champion(settings: Settings, noise: float) -> int:
    from tasks.models.catalog import open_model

    reigning = ledger.champion(journal.read("digits"))
    plan = spoilt(open_model("digits").graph, noise)
    release = released(settings, 0.0, "digits", plan=plan)
    promote(release, reigning.version if reigning else None, "tester", "it passed")
    return int(release.version)


def test_a_version_is_tried_before_a_server_switches_to_it(
    digits: Settings, tmp_path: Path
) -> None:
    with serving(tmp_path) as triton:
        first = publish_triton("digits", str(tmp_path), triton.address)
        second = champion(digits, 0.01)
        publish_triton("digits", str(tmp_path), triton.address)
        assert triton.loads == [(1,), (1,), (1, second), (second,)]
        assert set(triton.asked) == {1, second}
    assert first.tried
    config = read_config(tmp_path, "digits")
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 64)
    assert [list(item.dims) for item in config.input] == [[1, 8, 8]]
    assert (tmp_path / "digits" / "1" / "model.onnx").is_file()  # retired, and still there


def test_a_version_that_answers_otherwise_there_is_not_switched_to(
    digits: Settings, tmp_path: Path
) -> None:
    with serving(tmp_path) as triton:
        publish_triton("digits", str(tmp_path), triton.address)
        second = champion(digits, 0.01)
        triton.broken.add(second)
        with pytest.raises(Refused, match="the version before serves on"):
            publish_triton("digits", str(tmp_path), triton.address)
        assert triton.loads[-1] == (1,)
    assert list(read_config(tmp_path, "digits").version_policy.specific.versions) == [1]


def test_publishing_again_changes_nothing_and_no_directory_is_written_over(
    digits: Settings, tmp_path: Path
) -> None:
    once = publish_triton("digits", str(tmp_path))
    assert publish_triton("digits", str(tmp_path)) == once
    (tmp_path / "digits" / "1" / "model.onnx").write_bytes(b"somebody's")
    with pytest.raises(Refused, match="not written over"):
        publish_triton("digits", str(tmp_path))


def test_a_manifest_names_the_versions_own_repository_and_its_share(
    digits: Settings, tmp_path: Path
) -> None:
    text = publish_kserve("digits", str(tmp_path), storage="pvc://models/digits", canary_percent=10)
    predictor = yaml.safe_load(text)["spec"]["predictor"]
    assert predictor["canaryTrafficPercent"] == 10
    assert predictor["model"]["storageUri"] == "pvc://models/digits/1"
    assert (tmp_path / "1" / "digits" / "config.pbtxt").is_file()
    with pytest.raises(BadInput, match="a cluster reaches"):
        publish_kserve("digits", str(tmp_path))


def test_standard_mode_names_both_versions_and_a_promotion_takes_the_new_ones_name(
    digits: Settings, tmp_path: Path
) -> None:
    to, storage = str(tmp_path), "pvc://models/digits"
    with pytest.raises(BadInput, match="no champion before version 1"):
        publish_kserve("digits", to, storage=storage, canary_percent=10, standard=True)
    champion(digits, 0.001)
    with pytest.raises(BadInput, match="version 1 of digits, the champion before, is not in"):
        publish_kserve("digits", to, storage=storage, canary_percent=10, standard=True)
    (tmp_path / "1" / "digits").mkdir(parents=True)
    (tmp_path / "1" / "digits" / "config.pbtxt").touch()  # published while it was champion
    text = publish_kserve("digits", to, storage=storage, canary_percent=10, standard=True)
    spec = yaml.safe_load(text)["spec"]
    (canary,) = spec["canary"]
    assert (spec["predictor"]["name"], canary["predictor"]["name"]) == ("v1", "v2")
    assert canary["trafficPercent"] == 10
    assert spec["predictor"]["model"]["storageUri"] == f"{storage}/1"
    assert canary["predictor"]["model"]["storageUri"] == f"{storage}/2"
    promoted = yaml.safe_load(publish_kserve("digits", to, storage=storage, standard=True))["spec"]
    assert promoted == {"predictor": canary["predictor"]}


def test_without_a_champion_nothing_is_written(
    registry_workspace: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotFound):
        publish_triton("digits", str(tmp_path / "repository"))
    assert not (tmp_path / "repository").exists()


def test_a_checkpoint_folder_is_whole_once_its_configuration_is_there(
    digits: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(model: str, output: Path, source: Path | None) -> None:
        output.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (output / name).write_text(name)

    placed: list[str] = []
    put_file = LocalStore.put_file

    def noted(store: LocalStore, key: str, path: Path) -> None:
        placed.append(key)
        put_file(store, key, path)

    monkeypatch.setattr(checkpoints, "export_checkpoint", export)
    monkeypatch.setattr(LocalStore, "put_file", noted)
    checkpoints.publish_vllm("digits", str(tmp_path / "vllm"))
    assert placed[-1] == "digits/1/config.json"
    assert (tmp_path / "vllm" / "digits" / "1" / "model.safetensors").is_file()
    with pytest.raises(Refused, match="not written over"):
        checkpoints.publish_vllm("digits", str(tmp_path / "vllm"))


def test_a_repository_lies_in_a_bucket_too(
    digits: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="models")
        monkeypatch.setenv("REQUANT_S3_ENDPOINT_URL", endpoint)
        use_workspace(digits.workspace)
        publish_triton("digits", "s3://models/triton")
        store = open_store("s3://models/triton", endpoint_url=endpoint)
        assert list(store.list("")) == ["digits/1/model.onnx", "digits/config.pbtxt"]
    finally:
        server.stop()


def test_a_devices_folder_runs_without_requant_and_tells_a_damaged_file(
    digits: Settings, tmp_path: Path
) -> None:
    from tasks.models.catalog import open_model

    folder = tmp_path / "bundle"
    publish_device("digits", folder)
    image = np.asarray(open_model("digits").golden.cases[0].payload, np.float32)[None]
    np.save(tmp_path / "image.npy", image)
    program = (
        "import sys, numpy; sys.path.insert(0, sys.argv[1]); from load import DeviceModel; "
        "outputs = DeviceModel(sys.argv[1]).run({'image': numpy.load(sys.argv[2])}); "
        "assert not [name for name in sys.modules if name in ('infra', 'tasks', 'onnx')]; "
        "print(int(outputs['logits'].argmax()))"
    )
    command = [sys.executable, "-I", "-c", program, str(folder), str(tmp_path / "image.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reference = open_model("digits").reference.run({"image": image})["logits"]
    assert int(done.stdout) == int(reference.argmax())
    with (folder / "model.onnx").open("ab") as plan:
        plan.write(b"x")
    damaged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "differs from its digest" in damaged.stderr
    with pytest.raises(BadInput, match="is there already"):
        publish_device("digits", folder)
