"""What a language model read, out of every body that such servers take."""

from pathlib import Path
from typing import Any

import pytest

from tasks.specs.spec import Task
from tasks.traffic.formats import TrafficFormat
from tests.unit.tasks.traffic.formats.reading import read, write_lines

AT = "2026-03-01T11:00:00Z"
BARK = "Answer in barks."
HELLO = {"role": "user", "content": "hello"}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "arf"}}]}


def payloads(
    path: Path, body: dict[str, Any], answer: object = ANSWER, **line: object
) -> tuple[list[object], list[str]]:
    document = {"id": "a", "time": AT, "request": body, "response": answer, **line}
    requests, reasons, _ = read(write_lines(path / "log.jsonl", [document]), TrafficFormat.CHAT)
    return [request.payload for request in requests], reasons


@pytest.mark.parametrize(
    "beside",
    [
        {"instructions": BARK},
        {"instructions": [{"role": "developer", "content": BARK}]},
        {"system": BARK},
        {"system": [{"type": "text", "text": BARK, "cache_control": {"type": "ephemeral"}}]},
        {"systemInstruction": {"parts": [{"text": BARK}]}},
        {"system": [{"text": BARK}]},
    ],
)
def test_instructions_beside_the_turns_are_read_before_them(
    tmp_path: Path, beside: dict[str, Any]
) -> None:
    wanted = f"System: {BARK}\nUser: hello\nAssistant:"
    for asked in ({"messages": [HELLO]}, {"input": "hello"}, {"input": [HELLO]}):
        assert payloads(tmp_path, {**asked, **beside}) == ([wanted], [])


def test_a_plain_input_is_a_users_turn_where_responses_was_asked(tmp_path: Path) -> None:
    answer = {"object": "response", "output": []}
    assert payloads(tmp_path, {"input": "hello"}, answer) == (["User: hello\nAssistant:"], [])
    assert payloads(tmp_path, {"input": "hello"}, {"object": "list"}) == (["hello"], [])


def test_items_of_responses_are_turns_calls_and_what_tools_gave_back(tmp_path: Path) -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "rain?"}]},
        {"type": "reasoning", "summary": [], "content": []},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "wet"},
    ]
    (text,), reasons = payloads(tmp_path, {"input": items})
    assert reasons == []
    assert str(text).splitlines() == [
        "User: rain?",
        'Assistant: {"arguments": "{}", "call_id": "1", "name": "weather", '
        '"type": "function_call"}',
        "Tool: wet",
        "Assistant:",
    ]


def test_blocks_of_anthropic_and_tools_are_read(tmp_path: Path) -> None:
    body = {
        "tools": [{"name": "weather"}],
        "messages": [
            {"role": "user", "content": "rain?"},
            {"role": "assistant", "content": [{"type": "tool_use", "name": "weather"}]},
            {"role": "user", "content": [{"type": "tool_result", "content": "wet"}]},
        ],
    }
    (text,), _ = payloads(tmp_path, body)
    assert str(text).splitlines() == [
        'System: {"tools": [{"name": "weather"}]}',
        "User: rain?",
        'Assistant: {"name": "weather", "type": "tool_use"}',
        "User: wet",
        "Assistant:",
    ]


@pytest.mark.parametrize(
    "answer", ["arf", [{"choices": [{"delta": {"content": "arf"}}]}], {"output_text": "arf"}]
)
def test_an_answer_may_be_logged_as_text_or_in_chunks(tmp_path: Path, answer: object) -> None:
    body = {"messages": [{"role": "user", "content": ["hello", {"text": "there"}]}]}
    assert payloads(tmp_path, body, answer)[0] == ["User: hello\nthere\nAssistant:"]


def test_a_batch_of_anthropic_is_joined_by_custom_id(tmp_path: Path) -> None:
    params = {"system": BARK, "messages": [HELLO]}
    message = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "x"}]}
    path = write_lines(
        tmp_path / "batch.jsonl",
        [
            {"custom_id": "a", "params": params},
            {"custom_id": "b", "params": params},
            {"custom_id": "a", "result": {"type": "succeeded", "message": message}},
            {"custom_id": "b", "result": {"type": "expired"}},
        ],
    )
    from tests.unit.tasks.traffic.formats.reading import ELEVEN

    (request,), reasons, _ = read(path, TrafficFormat.CHAT, first_at=ELEVEN)
    assert request.payload == f"System: {BARK}\nUser: hello\nAssistant:"
    assert reasons == ["the request was expired: nothing was served"]


def test_a_reply_that_was_begun_is_part_of_what_was_asked(tmp_path: Path) -> None:
    begun = [HELLO, {"role": "assistant", "content": "Wo"}]
    message = {"type": "message", "content": [{"type": "text", "text": "of"}]}
    assert payloads(tmp_path, {"messages": begun}, message)[0] == ["User: hello\nAssistant: Wo"]
    logged = [HELLO, {"role": "assistant", "content": "arf"}]  # the reply, logged with the turns
    assert payloads(tmp_path, {"messages": logged})[0] == ["User: hello\nAssistant:"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"input": "x", "previous_response_id": "r"}, "it has previous_response_id: its earlier"),
        ({"prompt": "def f():", "suffix": "return x"}, "it has suffix: the model read a text"),
        ({"prompt": [1, 2, 3]}, "its input is token ids, not text"),
        ({"input": "x", "prompt": {"id": "p"}}, "its prompt is a template that the server keeps"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "turn 1 is of the type 'item_ref"),
        ({"prompt": []}, "its input is an empty list"),
        ({"input": ["x", HELLO]}, "its input is a list of neither texts nor turns"),
        ({"system": 5, "messages": [HELLO]}, "the content of system is neither text nor"),
    ],
)
def test_what_a_body_does_not_spell_out_is_refused_by_name(
    tmp_path: Path, body: dict[str, Any], sentence: str
) -> None:
    texts, (reason,) = payloads(tmp_path, body)
    assert texts == []
    assert sentence in reason


def test_bodies_that_were_logged_as_text_are_read(tmp_path: Path) -> None:
    document = {"id": 7, "time": AT, "request": '{"messages": [{"role": "user", "content": "hi"}]}'}
    path = write_lines(tmp_path / "log.jsonl", [{**document, "response": "hello"}])
    (request,), _, _ = read(path, TrafficFormat.CHAT, Task.TEXT_EMBEDDING)
    assert (request.request_id, request.payload) == ("7", "User: hi\nAssistant:")
