"""The language and domain of a chat that nobody said."""

from datetime import UTC, datetime

import pytest

from tasks.records import UNKNOWN
from tasks.specs.traits import Task
from tasks.traffic.checks import RequestRules
from tasks.traffic.detection import domain_of, language_of

RULES = RequestRules(Task.CAUSAL_LM, None, datetime(2030, 1, 1, tzinfo=UTC))
GERMAN = "Wo ist mein Paket? Ich warte seit einer Woche darauf."
PROGRAM = "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n"


@pytest.mark.parametrize(
    ("said", "language"),
    [
        ("Where is my parcel? I have been waiting for a week.", "en"),
        ("Wo ist mein Paket? Ich warte seit einer Woche darauf.", "de"),
        ("Où est mon colis ? J'attends depuis une semaine.", "fr"),
        ("荷物はどこですか。一週間待っています。", "ja"),
        ("Где моя посылка? Я жду уже целую неделю.", "ru"),
        ("ok", UNKNOWN),
        ("12345 !?", UNKNOWN),
        ("https://example.org/where-is-my-parcel", UNKNOWN),
    ],
)
def test_the_language_is_that_of_what_was_said(said: str, language: str) -> None:
    assert language_of(said) == language
    assert language_of(f"User: {said}\nAssistant:") == language
    system = f"System: You are a helpful assistant, who answers in English.\nUser: {said}"
    assert language_of(f"{system}\nAssistant:") == language


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        (PROGRAM, "code"),
        (f"User: What does this do?\n```python\n{PROGRAM}```\nAssistant:", "code"),
        ("for (int i = 0; i < n; i++) {\n  total += i;\n}\n", "code"),
        ("User: Where is my parcel?\nAssistant: On its way.", UNKNOWN),
        ("Dear team;\nthe meeting is at nine.\nSee you there, Ann", UNKNOWN),
    ],
)
def test_code_is_a_domain(text: str, domain: str) -> None:
    assert domain_of(text) == domain


def test_what_the_sender_says_is_kept() -> None:
    record = {"request_id": "a", "time": "2026-01-01T00:00:00Z", "text": GERMAN}
    assert RULES.request(record).language == "de"
    told = RULES.request({**record, "language": "nds", "domain": "shop"})
    assert (told.language, told.domain) == ("nds", "shop")
    other = RequestRules(Task.TEXT_EMBEDDING, None, RULES.latest)
    assert other.request(record).language == UNKNOWN
