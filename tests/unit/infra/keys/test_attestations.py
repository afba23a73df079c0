"""What a bundle says of itself holds for foreign tools, and not for another bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.canonical import Json, sha256
from infra.keys.attestations import opened
from infra.keys.private import Signer
from infra.keys.public import TrustedKeys
from infra.releases import write_release
from infra.stores.local import LocalStore

FILES = {"graph.onnx": b"graph", "engines/onnxruntime-cpu/plan": b"plan", "golden/x.json": b"{}"}
FACTS: dict[str, Json] = {
    "recipe": {"name": "int8"},
    "calibration": "c" * 64,
    "verdicts": {"onnxruntime-cpu": "passed"},
    "libraries": {"onnx": "1.21.0", "tensorrt_rtx": "1.7"},
}


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.create(tmp_path / "signing.pem")


@pytest.fixture
def folder(tmp_path: Path, signer: Signer) -> Path:
    """Return the folder of a signed release."""
    store = LocalStore(str(tmp_path / "store"))
    release = write_release(store, "m", FILES, FACTS, signer)
    return tmp_path / "store" / "releases" / "m" / release.digest


def model_signing(folder: Path, signer: Signer) -> subprocess.CompletedProcess[str]:
    key = folder.parent / "public.pem"
    key.write_bytes(signer.verifier().pem)
    arguments = ["verify", "key", "--signature", str(folder / "model.sig")]
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *arguments, "--public_key", str(key), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_openssf_tool_verifies_a_bundle_and_notices_what_was_changed_or_added(
    folder: Path, signer: Signer, tmp_path: Path
) -> None:
    pytest.importorskip("model_signing")
    verified = model_signing(folder, signer)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    (folder / "extra.bin").write_bytes(b"x")
    assert model_signing(folder, signer).returncode != 0
    (folder / "extra.bin").unlink()
    (folder / "graph.onnx").write_bytes(b"grapi")
    assert model_signing(folder, signer).returncode != 0
    (folder / "graph.onnx").write_bytes(b"graph")
    assert model_signing(folder, Signer.create(tmp_path / "other.pem")).returncode != 0


def test_the_bill_of_materials_is_valid_cyclonedx(folder: Path) -> None:
    pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (folder / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    assert bom["metadata"]["component"]["version"] == folder.name
    hashes = {item["name"]: item.get("hashes") for item in bom["components"]}
    assert hashes["graph.onnx"] == [{"alg": "SHA-256", "content": sha256(b"graph")}]
    assert "pkg:pypi/tensorrt-rtx@1.7" in {item.get("purl") for item in bom["components"]}


def test_the_provenance_names_every_file_and_what_it_was_made_from(
    folder: Path, signer: Signer
) -> None:
    data = (folder / "provenance.intoto.jsonl").read_bytes()
    statement = opened(TrustedKeys([signer.verifier()]), data)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert subjects["graph.onnx"] == sha256(b"graph")
    assert subjects["manifest.json"] == folder.name
    inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "calibration", "digest": {"sha256": "c" * 64}} in inputs
