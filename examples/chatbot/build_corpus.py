"""Write the pool and the golden set of the chatbot from its passages.

`python -m examples.chatbot.build_corpus [FOLDER]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from examples.chatbot.bot import SYSTEM, Passage, read_passages
from examples.rows import CorpusRow, Payload, write
from tasks.models.golden import write_golden
from tasks.records import GoldenCase
from tasks.transcripts import Turn, write_transcript

QUESTIONS = (
    "What should I know about this?",
    "Can you explain that to a child?",
    "What do I have to do now?",
)
GOLDEN = (
    "Which of this matters most?",
    "Can you put that in your own words?",
    "What is the rule here?",
    "A friend asked me about this. What can I say?",
    "Where do I begin?",
)
"""So many that each topic has the ten cases that a gate needs."""


def build(folder: Path) -> None:
    """Write both files."""
    passages = read_passages()
    pool = [
        CorpusRow(f"pool-{place}", Payload(text=text), topic, "en")
        for place, (topic, text) in enumerate(_chats(passages, QUESTIONS))
    ]
    write(folder / "calibration.parquet", pool)
    cases = [
        GoldenCase(f"golden-{place}", text, topic, "en")
        for place, (topic, text) in enumerate(_chats(passages, GOLDEN))
    ]
    (folder / "golden.parquet").write_bytes(write_golden(cases))


def _chats(passages: tuple[Passage, ...], questions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield topic and transcript; the reply is the passage, which a good answer says again."""
    for passage in passages:
        for question in questions:
            turns = (
                Turn("system", SYSTEM + passage.text),
                Turn("user", question),
                Turn("assistant", passage.text),
            )
            yield passage.topic, write_transcript(turns)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
