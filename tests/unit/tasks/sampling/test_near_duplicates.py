"""Texts in any script, and tensors, that say the same again."""

from datetime import UTC, datetime

import numpy as np
import pytest

from tasks.records import Payload, Request
from tasks.sampling.near_duplicates import distinct

TIME = datetime(2026, 3, 1, tzinfo=UTC)


def kept(*payloads: Payload, similarity: float = 0.8) -> list[int]:
    requests = [Request(str(i), TIME, "a", "docs", "en", one) for i, one in enumerate(payloads)]
    return [int(one.request_id) for one in distinct(requests, similarity)]


@pytest.mark.parametrize(
    ("text", "again", "other"),
    [
        (
            "Please summarise the attached contract and list every deadline "
            "that it names for our team.",
            "please  summarise the attached contract and list every deadline "
            "that it names for our team",
            "What is the boiling point of nitrogen at a pressure of two atmospheres?",
        ),
        (
            "กรุณาสรุปสัญญาที่แนบมาและระบุกำหนดเวลาทั้งหมดที่เกี่ยวข้องกับทีมของเรา",
            "กรุณาสรุปสัญญาที่แนบมาและระบุกำหนดเวลาทั้งหมดที่เกี่ยวข้องกับทีมของเราค่ะ",
            "อากาศวันนี้ที่เชียงใหม่เป็นอย่างไรบ้าง ฝนจะตกหรือไม่",
        ),
        (
            "添付の契約書を要約し、チームに関係するすべての期限を一覧にしてください。お願いいたします。",
            "添付の契約書を要約し、チームに関係するすべての期限を一覧にしてください。お願いいたします",
            "明日の東京の天気はどうなりますか。雨は降るでしょうか。",
        ),
        (
            "请总结附件中的合同，并列出其中与我们团队有关的所有截止日期，谢谢你的帮助。",
            "请总结附件中的合同，并列出其中与我们团队有关的所有截止日期，谢谢你的帮助！",
            "明天北京的天气怎么样，会不会下雨，需要带伞吗？",
        ),
    ],
)
def test_the_first_of_near_duplicates_is_kept_in_every_script(
    text: str, again: str, other: str
) -> None:
    assert kept(text, again, other) == [0, 2]


def test_similarity_of_one_keeps_everything() -> None:
    assert kept("a text", "a text ", similarity=1.0) == [0, 1]


def test_short_and_empty_texts_are_told_apart() -> None:
    assert kept("", "a", "b", "ok", "no") == [0, 1, 2, 3, 4]


def test_tensors_that_differ_by_less_than_a_step_count_once_and_another_brightness_is_another() -> (
    None
):
    image = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    image[0, 0, 0] = 1
    close = image.copy()
    close[0, 1, 1] += np.float32(1e-4)
    assert kept(image, close, image * np.float32(4), image[:, ::-1]) == [0, 2, 3]


def test_zeros_count_once_and_nothing_breaks_on_infinities() -> None:
    zeros = np.zeros((1, 4), np.float32)
    assert kept(zeros, zeros.copy(), np.full((1, 4), np.inf, np.float32)) == [0, 2]
