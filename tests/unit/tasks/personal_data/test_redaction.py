"""What leaves a text before it is stored, and what stays."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.personal_data.redaction import redact

CARD = "4111 1111 1111 1111"  # the card schemes' published test number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to bob.smith+x@example.co.uk today", "write to <EMAIL> today"),
        ("Grüße an müller@bücher.de", "Grüße an <EMAIL>"),
        ("call 020 7946 0958 now", "call <PHONE> now"),
        ("+49 30 1234567", "<PHONE>"),
        ("(415) 555-2671 or 415-555-2671", "<PHONE> or <PHONE>"),
        ("06 12 34 56 78", "<PHONE>"),
        ("電話番号：03-1234-5678", "電話番号：<PHONE>"),
        ("Тел: 8 495 123 45 67", "Тел: <PHONE>"),
        (f"pay with {CARD}.", "pay with <CARD>."),
        ("378282246310005", "<CARD>"),
        ("api_key = 'abcd1234efgh5678'", "api_key = '<KEY>'"),
        ('{"access_token": "a1b2c3d4e5f6"}', '{"access_token": "<KEY>"}'),
        ("password='correcthorse'", "password='<KEY>'"),
        ("AWS: AKIAIOSFODNN7EXAMPLE", "AWS: <KEY>"),
        ("ghp_" + "a1B2" * 9, "<KEY>"),
        ("Authorization: Bearer abcDEF1234567890abcdef", "Authorization: Bearer <KEY>"),
        ("postgres://me:s3cret@db.host/x", "postgres://me:<KEY>@db.host/x"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIE" * 20 + "\n-----END RSA PRIVATE KEY-----",
            "<KEY>",
        ),
    ],
)
def test_personal_data_and_secrets_are_replaced(text: str, expected: str) -> None:
    assert redact(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "sorted(rows, key=operator.itemgetter(1), reverse=True)",
        "sorted(rows, key=lambda row: row.name)",
        "token = tokenizer.encode2(text); primary_key=user_table_id1; cache_key = f'{a}:{b}'",
        "y = x @ self.weight + x@self.bias",
        "@app.route('/v1/items')\ndef items(): ...",
        "git clone git@github.com:owner/repo.git",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit 1234567890abcdef1234567890abcdef12345678",
        "550e8400-e29b-41d4-a716-446655440000",
        "2026-01-15 12:30:45.123456 version 1.22.333 on 192.168.100.200:8080",
        "3.141592653589793 1700000000000000000 0x7fffffff 1e+10 [1, 2, 3, 4, 5, 6, 7, 8]",
        "4111111111111112",  # fails Luhn's checksum
        "password = get_password(user)",
    ],
)
def test_code_and_ordinary_numbers_stay_as_they_are(text: str) -> None:
    assert redact(text).text == text
    assert not redact(text).counts


def test_what_was_found_is_counted_by_kind() -> None:
    assert redact(f"a@b.com, c@d.org, {CARD}").counts == {"<EMAIL>": 2, "<CARD>": 1}


_PIECES = st.sampled_from(
    [
        "a@b.com",
        CARD,
        "+4930123456789",
        "key=",
        "a1" * 9,
        "415-555-2671",
        "://u:",
        "@",
        "tel ",
        "password='",
        "'",
        " ",
        "1",
    ]
)


@given(st.lists(_PIECES, max_size=12).map("".join) | st.text())
@settings(max_examples=300, deadline=None)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text).text
    assert redact(once).text == once
    assert not redact(once).counts


@pytest.mark.parametrize(
    "piece",
    ["a", "a@", "x@a.", "1 ", "tel ", "key=a", "-----BEGIN PRIVATE KEY-----", "://a:", "+1"],
)
def test_a_hostile_megabyte_takes_linear_time(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.perf_counter()
        redact(text)
        return time.perf_counter() - start

    # Quadratic time would be 64 times as long.
    assert seconds(400_000) < 24 * seconds(50_000) + 0.1


def test_random_digits_are_rarely_taken_for_anything() -> None:
    generator = random.Random(0)
    numbers = [str(generator.randrange(10 ** generator.randrange(1, 13))) for _ in range(2000)]
    assert redact(" ".join(numbers)).text.count("<") <= 2
