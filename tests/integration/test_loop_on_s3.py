"""The loop with its store on S3: settings alone decide."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from infra.settings import Settings
from tests.conftest import pointed_at
from tests.integration.conftest import EXAMPLES, images, serve

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def on_s3(tmp_path: Path, prefect_server: tuple[str, str]) -> Iterator[Settings]:
    from flows.orchestration.runtime import using

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    endpoint = f"http://{host}:{port}"
    before = dict(os.environ)
    os.environ.update(
        {**keys, "REQUANT_STORE_URL": "s3://traffic/requant", "REQUANT_S3_ENDPOINT_URL": endpoint}
    )
    try:
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="traffic")
        with using(*prefect_server):
            yield from pointed_at(tmp_path / "workspace")
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


def test_a_champion_is_built_kept_and_recalibrated_from_a_bucket(on_s3: Settings) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    serve(on_s3, "digits", 0, images(0.5, 1.0))
    assert maintenance("digits").status is Status.PROMOTED
    serve(on_s3, "digits", 1, images(0.5, 1.0, seed=1))
    assert maintenance("digits").status is Status.KEPT
    serve(on_s3, "digits", 2, images(4.0, 8.0, seed=2))
    outcome = maintenance("digits")
    assert outcome.status is Status.PROMOTED
    assert [candidate.recipe for candidate in outcome.candidates] == ["resmooth"]
    assert not (on_s3.root / "store").exists()
    assert any(key.startswith("ledger/digits/") for key in on_s3.store().list(""))
