"""What a signed bundle says of itself in the forms that other tools read.

- `model.sig`: an OpenSSF model signature (v1.0) over every other file, in a Sigstore bundle (v0.3):
  `model_signing verify key FOLDER --signature FOLDER/model.sig --public_key KEY`. It takes keys of
  the curve P-256, so that an Ed25519 key leaves none. It names no ignored paths: a verifier that
  trusts a signature's own list lets the signer hide files.
- `provenance.intoto.jsonl`: an in-toto statement (v1) with SLSA's provenance (v1) of what the
  release was made from, in a DSSE envelope.
- `bom.cdx.json`: a bill of materials in CycloneDX 1.6: the model, its files, the libraries.

None holds a time or a random number: writing the same release again writes the same statements.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from infra.canonical import Json, canonical, sha256
from infra.errors import BadInput, Tampered
from infra.keys.private import SigningKey
from infra.keys.public import P256, TrustedKeys

BOM, PROVENANCE, MODEL_SIGNATURE = "bom.cdx.json", "provenance.intoto.jsonl", "model.sig"
ATTESTATIONS = (BOM, PROVENANCE, MODEL_SIGNATURE)
"""The files, in the order in which they are written."""
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_BUILD_TYPE = "urn:requant:requantize:v1"


def attestations(
    signer: SigningKey,
    model: str,
    digest: str,
    files: Mapping[str, str],
    facts: Mapping[str, Json],
) -> Mapping[str, bytes]:
    """Return the statements about a release, by file name.

    Args:
        signer: Signs them.
        model: The model's name.
        digest: Of the release, SHA-256.
        files: Every file of the bundle but these -> its SHA-256.
        facts: What the manifest records of the making.
    """
    bom = canonical(bill_of_materials(model, digest, files, facts))
    statement = canonical(provenance(model, digest, files, facts))
    signed = canonical(envelope(signer, statement)) + b"\n"
    if signer.verifier().algorithm != P256:
        return {BOM: bom, PROVENANCE: signed}
    covered = {**files, BOM: sha256(bom), PROVENANCE: sha256(signed)}
    return {BOM: bom, PROVENANCE: signed, MODEL_SIGNATURE: model_signature(signer, model, covered)}


def model_signature(signer: SigningKey, model: str, files: Mapping[str, str]) -> bytes:
    """Return an OpenSSF model signature over files, by the path below the model's folder."""
    resources: list[Json] = [
        {"name": name, "algorithm": "sha256", "digest": files[name]} for name in sorted(files)
    ]
    root = sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files)))
    serialization: Json = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [],
    }
    statement: Json = {
        "_type": _STATEMENT,
        "subject": [{"name": model, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    }
    bundle: Json = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": sha256(signer.verifier().pem)},
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope(signer, canonical(statement)),
    }
    return canonical(bundle)


def wrong_in_model_signature(
    trusted: TrustedKeys, bundle: bytes, files: Mapping[str, str]
) -> str | None:
    """Return what is wrong with an OpenSSF model signature, a sentence; None where nothing is.

    Args:
        trusted: The keys that count.
        bundle: The signature file.
        files: Every other file in the folder -> its SHA-256.
    """
    try:
        statement = opened(trusted, canonical(json.loads(bundle)["dsseEnvelope"]))
        signed = {item["name"]: item["digest"] for item in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, Tampered, BadInput):
        return f"The file {MODEL_SIGNATURE} bears no signature of a trusted key."
    differing = sorted(name for name in {*signed, *files} if signed.get(name) != files.get(name))
    return f"{differing[0]} is not what {MODEL_SIGNATURE} signed." if differing else None


def opened(trusted: TrustedKeys, data: bytes) -> Any:
    """Return the statement in a DSSE envelope that a trusted key signed.

    Raises `Tampered` where none did, `ValueError`, `KeyError`, `TypeError`.
    """
    document = json.loads(data)
    payload = base64.b64decode(document["payload"], validate=True)
    for signature in document["signatures"]:
        raw = base64.b64decode(signature["sig"], validate=True)
        if trusted.holds(signature["keyid"], pre_authentication(payload), raw):
            return json.loads(payload)
    raise Tampered("No trusted key signed the statement: check which key did.")


def envelope(signer: SigningKey, payload: bytes) -> Mapping[str, Json]:
    """Return a DSSE envelope (v1.0) of an in-toto statement."""
    signature = signer.signature(pre_authentication(payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _IN_TOTO,
        "signatures": [
            {"sig": base64.b64encode(signature).decode(), "keyid": signer.verifier().key_id}
        ],
    }


def pre_authentication(payload: bytes) -> bytes:
    """Return what is signed of a payload: DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(_IN_TOTO)} {_IN_TOTO} {len(payload)} ".encode() + payload


def provenance(
    model: str, digest: str, files: Mapping[str, str], facts: Mapping[str, Json]
) -> Mapping[str, Json]:
    """Return SLSA's provenance (v1) of a release: what it was made from, and by what."""
    inputs: list[Json] = [
        {"name": name, "digest": {"sha256": value}}
        for name in ("calibration", "window", "source", "preprocess")
        if isinstance(value := facts.get(name), str) and len(value) == 64
    ]
    definition: Json = {
        "buildType": _BUILD_TYPE,
        "externalParameters": {"model": model, "recipe": facts.get("recipe")},
        "resolvedDependencies": [
            *inputs,
            *({"uri": _package(name, version)} for name, version in _libraries(facts)),
        ],
    }
    return {
        "_type": _STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": value}} for name, value in sorted(files.items())
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": definition,
            "runDetails": {
                "builder": {"id": "urn:requant:builder"},
                "metadata": {"invocationId": f"urn:sha256:{digest}"},
            },
        },
    }


def bill_of_materials(
    model: str, digest: str, files: Mapping[str, str], facts: Mapping[str, Json]
) -> Mapping[str, Json]:
    """Return the bill of materials in CycloneDX 1.6."""
    properties: list[Json] = [
        {"name": f"requant:{name}", "value": canonical(facts[name]).decode()}
        for name in ("recipe", "calibration", "verdicts")
        if name in facts
    ]
    described: Json = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model,
        "version": digest,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "properties": properties,
    }
    stored: list[Json] = [
        {
            "type": "file",
            "bom-ref": f"file:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": value}],
        }
        for name, value in sorted(files.items())
    ]
    libraries: list[Json] = [
        {
            "type": "library",
            "bom-ref": _package(name, version),
            "name": name,
            "version": version,
            "purl": _package(name, version),
        }
        for name, version in _libraries(facts)
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": described},
        "components": [*stored, *libraries],
    }


def _libraries(facts: Mapping[str, Json]) -> Sequence[tuple[str, str]]:
    recorded = facts.get("libraries")
    if not isinstance(recorded, Mapping):
        return ()
    return sorted((name, str(version)) for name, version in recorded.items())


def _package(name: str, version: str) -> str:
    """Return a package URL (purl); PyPI's names are lower-case, with dashes."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
