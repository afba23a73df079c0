"""New words and new places in embedding space are seen in any script, without a tokenizer."""

import numpy as np

from tasks.drift.detectors.embedding import compare, text_vectors
from tasks.drift.detectors.vocabulary import documents, ngrams, unknown_fraction

THAI = ["ฟังก์ชันนี้คืนค่าอะไร", "ข้อผิดพลาดนี้หมายความว่าอะไร", "จะเปิดไฟล์ได้อย่างไร"]
CHINESE = ["这个函数返回什么", "这个错误是什么意思", "如何打开文件"]


def test_ngrams_need_no_spaces_and_nothing_breaks_on_short_texts() -> None:
    assert len(ngrams("这个函数")) == 3 + 2
    assert len(ngrams("")) == len(ngrams("a")) == 0
    assert np.array_equal(ngrams("ABC"), ngrams("abc"))


def test_new_words_are_unknown_and_old_ones_are_not() -> None:
    for before, after in ((THAI, CHINESE), (CHINESE, THAI)):
        vocabulary = documents(before)
        assert unknown_fraction(before, vocabulary).max() == 0
        assert unknown_fraction(after, vocabulary).min() > 0.9
    assert unknown_fraction([""], documents(THAI)).tolist() == [0.0]


def test_vocabularies_of_shards_add_up() -> None:
    assert np.array_equal(documents(THAI) + documents(CHINESE), documents(THAI + CHINESE))


def test_the_discrepancy_is_about_zero_where_nothing_moved_and_large_where_it_did() -> None:
    generator = np.random.default_rng(0)
    before, same, moved = (generator.normal(mean, 1, (200, 8)) for mean in (0, 0, 1))
    assert abs(compare(before, same).discrepancy) < 0.02
    assert compare(before, moved).discrepancy > 0.05
    assert np.median(compare(before, moved).current) < np.median(compare(before, moved).reference)


def test_embeddings_of_zeros_and_equal_texts_are_compared_without_an_error() -> None:
    zeros = np.zeros((8, 4))
    assert compare(zeros, zeros).discrepancy == 0
    assert np.isfinite(compare(text_vectors(["same"] * 8), text_vectors([""] * 8)).discrepancy)
