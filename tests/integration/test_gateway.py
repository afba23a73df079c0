"""The gateway as its clients meet it: a real process, real clients, and a ledger that moves."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import yaml
from numpy.typing import NDArray
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from examples.rows import CorpusRow, Payload, write
from infra.settings import Settings
from tasks.models.golden import write_golden
from tasks.promotion import journal, ledger
from tasks.promotion.acts.promoting import promote, roll_back
from tasks.promotion.ledger import EntryKind
from tasks.records import GoldenCase, ReleaseRef
from tests.custom_models import ranker, records, write_model
from tests.integration.described import ask_as_described
from tests.integration.gateways import Served, serving, until
from tests.integration.releases import flip, released
from tests.language_folders import write_folder

SPEAKER = {
    "version": 1,
    "name": "speaker",
    "source": ".",
    "task": "causal-lm",
    "input": {"tokenizer": "tokenizer.json", "max_length": 48, "new_tokens": 16},
    "data": {"calibration": "calibration.parquet"},
    "golden": {"cases": "golden.parquet"},
    "budgets": {
        "latency_ratio": 50.0,
        "size_ratio": 2.0,
        "quality": [{"metric": "perplexity-ratio", "at_most": 1.5}],
    },
    "control": {"metric": "exact-match", "at_least": 0.0},
    "targets": ["onnxruntime-cpu"],
    "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
}
Tensors = Mapping[str, NDArray[Any]]
CASES = records(8, seed=5)
BATCH = {name: np.stack([case[name] for case in CASES]) for name in CASES[0]}


def champion(settings: Settings, seed: int) -> ReleaseRef:
    """Release and promote the ranker with other weights."""
    before = journal.read("ranker")
    reigning = next((e.version for e in reversed(before) if e.kind.value == "promoted"), None)
    plan = bytes(ranker(seed=seed).SerializeToString())
    release = released(settings, 0.0, "ranker", plan=plan)
    promote(release, reigning, "tester", "it passed")
    return release


def write_speaker(folder: Path) -> Path:
    """Write a small language model with a chat template."""
    write_folder(folder, "llama")
    texts = [f"{place} a model drifts" for place in range(40)]
    pool = [
        CorpusRow(str(place), Payload(text=text), "docs", "en") for place, text in enumerate(texts)
    ]
    write(folder / "calibration.parquet", pool)
    cases = [GoldenCase(f"g{place}", f"golden {place}", "docs", "en") for place in range(20)]
    (folder / "golden.parquet").write_bytes(write_golden(cases))
    template = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    (folder / "model.yaml").write_text(yaml.safe_dump(SPEAKER))
    return folder / "model.yaml"


def current_graph(model: str) -> bytes:
    from tasks.models.catalog import open_model

    return bytes(open_model(model).graph.SerializeToString())


def expected(seed: int, feeds: Tensors) -> NDArray[Any]:
    import onnxruntime as ort

    model = ranker(seed=seed).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: NDArray[Any] = session.run(["fetch_name_0"], dict(feeds))[0]
    return scores


SPANS: list[list[bytes]] = []
"""What the gateway sent to the collector of traces."""


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Take spans over OTLP."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            received.append(gzip.decompress(data) if packed else data)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def served(shared_workspace: Settings, empty_registry: Path) -> Iterator[Served]:
    """Serve a ranker with one champion."""
    import shutil

    from tasks.models.catalog import register

    settings = shared_workspace
    settings.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_registry, settings.root / "mlflow.db")
    register(write_model(settings.root / "source", ranker(), records(80)))
    register(write_speaker(settings.root / "speaker"))
    champion(settings, 1)
    speak = released(settings, 0.0, "speaker", plan=current_graph("speaker"))
    promote(speak, None, "tester", "it passed")
    with collector() as (endpoint, spans):
        environment = {
            "REQUANT_GATEWAY_CAPTURE": "1.0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        SPANS[:] = [spans]
        with serving(settings, **environment) as served:
            yield served


def ask(served: Served, feeds: Tensors, *, binary: bool = True) -> triton.InferResult:
    """Ask by Triton's own client."""
    client = triton.InferenceServerClient(served.address.removeprefix("http://"))
    inputs = []
    for name, values in feeds.items():
        tensor = triton.InferInput(name, list(values.shape), triton_type(values))
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    outputs = [triton.InferRequestedOutput("fetch_name_0", binary_data=binary)]
    return client.infer("ranker", inputs, outputs=outputs, headers=dict(served.headers))


def triton_type(values: NDArray[Any]) -> str:
    from tritonclient.utils import np_to_triton_dtype

    return str(np_to_triton_dtype(values.dtype))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_tritons_client_gets_what_the_champions_graph_computes(
    served: Served, binary: bool
) -> None:
    answer = ask(served, BATCH, binary=binary)
    assert np.allclose(answer.as_numpy("fetch_name_0"), expected(1, BATCH), atol=1e-5)
    response = answer.get_response()
    assert response["model_version"] == served.version()
    assert response["parameters"]["release"]
    assert response["parameters"]["tier"] == "routine"


def test_one_id_and_one_trace_go_through_a_request_from_end_to_end(served: Served) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    told = {"X-Request-Id": "order-7", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    tensors = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": triton_type(values),
            "data": values.tolist(),
        }
        for name, values in BATCH.items()
    ]
    body = gzip.compress(json.dumps({"inputs": tensors}).encode())
    answer = httpx.post(
        f"{served.address}/v2/models/ranker/infer",
        content=body,
        headers={**served.headers, **told, "Content-Encoding": "gzip"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Request-Id"] == "order-7"
    until(lambda: b"order-7" in b"".join(SPANS[0]))
    sent = b"".join(SPANS[0])
    assert bytes.fromhex(trace) in sent
    assert b"engine" in sent
    assert served.get("/v2").headers["X-Request-Id"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed(served: Served, algorithm: str) -> None:
    client = triton.InferenceServerClient(served.address.removeprefix("http://"))
    inputs = [triton.InferInput(n, list(v.shape), triton_type(v)) for n, v in BATCH.items()]
    for tensor, values in zip(inputs, BATCH.values(), strict=True):
        tensor.set_data_from_numpy(values)
    answer = client.infer(
        "ranker", inputs, headers=dict(served.headers), request_compression_algorithm=algorithm
    )
    assert answer.as_numpy("fetch_name_0").shape == (8, 3)


def test_metadata_names_tensors_version_and_release(served: Served) -> None:
    document = served.get("/v2/models/ranker").json()
    assert {item["name"]: item["datatype"] for item in document["inputs"]} == {
        "word ids": "INT32",
        "features": "FP32",
    }
    assert document["platform"] == "onnxruntime-cpu"
    assert served.get("/v2/models/ranker/versions/99").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"word ids": BATCH["word ids"].astype(np.int64)}, 400, "INT64: the model reads INT32"),
        ({"features": BATCH["features"][:, :5]}, 400, "has shape [8, 5]: the model reads [-1, 12]"),
        ({"other": BATCH["features"]}, 400, "the model reads features, word ids"),
    ],
)
def test_what_the_model_does_not_read_is_refused_in_a_sentence(
    served: Served, change: Tensors, status: int, sentence: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        ask(served, {**BATCH, **change})
    assert sentence in str(refused.value)
    assert f"{status}" in str(refused.value.status())


def test_nobody_without_the_workspaces_key_is_answered(served: Served) -> None:
    assert httpx.get(f"{served.address}/v2/models/ranker").status_code == 401


def test_no_request_fails_while_releases_are_swapped_and_rolled_back(served: Served) -> None:
    ended, failures, versions = threading.Event(), list[str](), set[str]()

    def keep_asking(seed: int) -> None:
        feeds = {name: values[seed % 8 :][:1] for name, values in BATCH.items()}
        while not ended.is_set():
            try:
                response = ask(served, feeds).get_response()
                versions.add(str(response["model_version"]))
            except Exception as error:  # any failure is one too many
                failures.append(repr(error))

    clients = [threading.Thread(target=keep_asking, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    first = served.version()
    second = champion(served.settings, 2)
    until(lambda: served.version() == second.version)
    assert np.allclose(ask(served, BATCH).as_numpy("fetch_name_0"), expected(2, BATCH), atol=1e-5)
    roll_back("ranker", None, "tester", "users complain", "r-1")
    until(lambda: served.version() == first)
    assert np.allclose(ask(served, BATCH).as_numpy("fetch_name_0"), expected(1, BATCH), atol=1e-5)
    ended.set()
    for client in clients:
        client.join()
    assert not failures
    assert versions == {first, second.version}


def test_a_champion_with_a_flipped_bit_is_not_served_and_the_old_one_answers_on(
    served: Served,
) -> None:
    before = served.version()
    plan = bytes(ranker(seed=3).SerializeToString())
    release = released(served.settings, 0.0, "ranker", plan=plan)
    flip(served.settings, release, "engines/onnxruntime-cpu/plan")
    past_every_check = ledger.body(
        EntryKind.PROMOTED,
        actor="tester",
        reason="written by somebody who may",
        version=release.version,
        release=release.digest,
    )
    journal.commit("ranker", lambda entries: past_every_check)
    until(lambda: served.metric('requant_gateway_head_refused{model="ranker"}') == 1.0)
    assert served.version() == before
    assert np.allclose(ask(served, BATCH).as_numpy("fetch_name_0"), expected(1, BATCH), atol=1e-5)
    index = httpx.post(f"{served.address}/v2/repository/index", headers=served.headers).json()
    assert "differs from its recorded digest" in index[0]["reason"]
    roll_back("ranker", None, "tester", "the bundle is damaged", "r-2")
    until(lambda: served.metric('requant_gateway_head_refused{model="ranker"}') == 0.0)


def test_what_was_served_is_live_traffic_with_its_context(served: Served) -> None:
    from tasks.traffic.storage.parts import read_part

    body = {
        "inputs": [
            {
                "name": name,
                "shape": list(values[:2].shape),
                "datatype": triton_type(values),
                "data": values[:2].tolist(),
            }
            for name, values in BATCH.items()
        ],
        "parameters": {"tenant": "acme", "domain": "shop"},
    }
    answer = httpx.post(
        f"{served.address}/v2/models/ranker/infer", json=body, headers=served.headers
    )
    assert answer.status_code == 200, answer.text
    store = served.settings.store()

    def stored() -> list[Any]:
        keys = [key for key in store.list("traffic/ranker/") if key.endswith(".parquet")]
        rows = [request for key in keys for request in read_part(store, key)]
        return [request for request in rows if request.tenant == "acme"]

    until(lambda: len(stored()) == 2)
    for place, request in enumerate(sorted(stored(), key=lambda item: item.request_id)):
        assert request.domain == "shop"
        assert request.model_version == served.version()
        assert np.array_equal(request.payload["features"], BATCH["features"][place])


def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{served.address}/v1", api_key=served.settings.secret().key, max_retries=0
    )


CHAT: Any = [{"role": "user", "content": "what drifts?"}]


def test_openais_client_chats_whole_and_streamed_alike(served: Served) -> None:
    ask = client(served).chat.completions.create
    whole = ask(model="speaker", messages=CHAT, temperature=0, max_tokens=12)
    said = whole.choices[0].message.content
    assert said
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 12
    stream = ask(
        model="speaker",
        messages=CHAT,
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == said
    assert chunks[-1].usage == whole.usage


def test_a_chat_is_answered_as_the_product_answers_its_golden_cases(served: Served) -> None:
    from tasks.models.catalog import open_model
    from tasks.models.decoding.generation import generate
    from tasks.models.inputs import language_inputs
    from tasks.transcripts import Turn, write_transcript

    model = open_model("speaker")
    inputs = language_inputs(model.inputs)
    asked = write_transcript([Turn("user", "what drifts?"), Turn("assistant", "")])
    (tokens,) = generate(
        model.reference, inputs.layout, inputs.whole_prompts([asked]), new_tokens=12
    )
    ask = client(served).chat.completions.create
    answer = ask(model="speaker", messages=CHAT, temperature=0, max_tokens=12)
    assert answer.choices[0].message.content == inputs.decode(tokens)


def test_many_chats_at_once_are_each_answered_as_alone(served: Served) -> None:
    ask = client(served).chat.completions.create
    texts = [f"chat {number} of many" for number in range(12)]

    def said(text: str) -> str:
        messages: Any = [{"role": "user", "content": text}]
        answer = ask(model="speaker", messages=messages, temperature=0, max_tokens=10)
        return str(answer.choices[0].message.content)

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(said, texts))
    assert together == [said(text) for text in texts]
    assert len(set(together)) > 3


def test_a_completion_ends_at_its_stop_string_and_a_seed_repeats_it(served: Served) -> None:
    ask = client(served).completions.create
    whole = ask(model="speaker", prompt="Quantized", seed=3, max_tokens=16).choices[0].text
    assert whole == ask(model="speaker", prompt="Quantized", seed=3, max_tokens=16).choices[0].text
    stop = whole[2:4]
    cut = ask(model="speaker", prompt="Quantized", seed=3, max_tokens=16, stop=stop)
    assert cut.choices[0].text == whole[: whole.find(stop)]
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("chat/completions", {"model": "nobody", "messages": CHAT}, 404, "no model is called"),
        ("chat/completions", {"model": "ranker", "messages": CHAT}, 400, "writes no texts"),
        ("chat/completions", {"model": "speaker", "messages": []}, 400, "messages"),
        (
            "chat/completions",
            {"model": "speaker", "messages": CHAT, "tools": [{}]},
            400,
            "tools cannot be had here",
        ),
        ("chat/completions", {"model": "speaker", "messages": CHAT, "n": 2}, 400, "n: "),
        ("completions", {"model": "speaker", "prompt": "a b " * 99}, 400, "this model reads 48"),
        ("embeddings", {"model": "speaker", "input": "x"}, 400, "embeds no texts"),
        ("embeddings", {"input": "x"}, 400, "model: Field required"),
    ],
)
def test_what_cannot_be_had_is_refused_in_openais_shape(
    served: Served, path: str, body: dict[str, Any], status: int, sentence: str
) -> None:
    answer = httpx.post(f"{served.address}/v1/{path}", json=body, headers=served.headers)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_chat_becomes_live_traffic_with_its_reply_and_without_personal_data(
    served: Served,
) -> None:
    from tasks.traffic.storage.parts import read_part

    messages: Any = [{"role": "user", "content": "write to ann.example@example.com now"}]
    ask = client(served).chat.completions.create
    ask(model="speaker", messages=messages, user="initech", max_tokens=4)
    store = served.settings.store()

    def stored() -> list[Any]:
        keys = [key for key in store.list("traffic/speaker/") if key.endswith(".parquet")]
        rows = [request for key in keys for request in read_part(store, key)]
        return [request for request in rows if request.tenant == "initech"]

    until(lambda: stored())
    assert stored()[0].payload.startswith("User: write to ")
    assert "ann.example" not in stored()[0].payload
    assert "Assistant: " in stored()[0].payload


def test_every_route_answers_as_the_openapi_document_says_whatever_it_is_sent(
    served: Served,
) -> None:
    answers = ask_as_described(served.address, served.headers, ("ranker", "speaker"), 2)
    assert {code for _, code in answers} >= {200, 400, 404}
    assert sum(answers.values()) > 30


@pytest.mark.soak
def test_every_route_answers_as_the_openapi_document_says_over_many_requests(
    served: Served,
) -> None:
    answers = ask_as_described(served.address, served.headers, ("ranker", "speaker"), 300)
    assert sum(answers.values()) > 4000
