"""Build the MiniLM example's corpus and golden set out of text that installed packages carry.

    pip install --no-deps --target CATALOGUES django==5.2.19 wagtail==8.0.1 sphinx==9.0.4
    python -m examples.minilm.build_corpus --packages CATALOGUES

The same interpreter and package versions give the same bytes. No model takes part.
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from examples.minilm.catalogues import LOCALES, passages, read_package
from examples.minilm.safety_texts import GOLDEN as SAFETY_GOLDEN
from examples.minilm.stdlib_text import Excerpt, docstrings, documentation, functions
from examples.rows import CorpusRow, GoldenCase, Payload, fingerprint, normalised, share, write

HERE = Path(__file__).parent
CATALOGUE_PACKAGES = {"django": "5.2.19", "wagtail": "8.0.1", "sphinx": "9.0.4"}

# Upper ends of each split's share of the hash range; what is left is golden.
TRAFFIC_ENDS, CALIBRATION_ENDS = 0.55, 0.75
# The standard library holds far more than the example needs.
CODE_ROWS, DOCSTRING_ROWS = 1000, 700
# About 30 words: scripts without spaces say in 64 characters what Latin letters say in 220. The
# tokenizer takes a
# Cyrillic letter for a token, and 128 tokens are all that the model reads.
PASSAGE_CHARACTERS = {"ja": 64, "zh": 64, "ko": 64, "ru": 150}
LATIN_CHARACTERS = 220
SHORTEST_MESSAGE = 6
PLAIN_CASES = 60
# (passages, queries) of a golden group; the groups that the demo turns to get more.
FEW_RETRIEVALS, MANY_RETRIEVALS = (16, 10), (30, 20)
MANY_IN_LANGUAGES = {"en", "ja", "ru"}


@dataclass(frozen=True)
class Record:
    """One excerpt with the group it belongs to and the digest that decides its split."""

    excerpt: Excerpt
    domain: str
    language: str
    digest: str

    @property
    def split(self) -> str:
        """Name the split that this text falls in."""
        where = share(self.digest)
        return (
            "traffic"
            if where < TRAFFIC_ENDS
            else "calibration"
            if where < CALIBRATION_ENDS
            else "golden"
        )


def locate(package: str, packages: Path | None) -> Path:
    """Find a package's folder, under `packages` or installed; exit with what to install."""
    if packages is not None and (packages / package).is_dir():
        return packages / package
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    wanted = " ".join(f"{name}=={version}" for name, version in CATALOGUE_PACKAGES.items())
    raise SystemExit(
        f"The catalogues of '{package}' were not found. Get them with\n"
        f"  pip install --no-deps --target CATALOGUES {wanted}\nand pass --packages CATALOGUES"
    )


def interface_texts(roots: list[Path]) -> Iterator[tuple[str, Excerpt]]:
    """Yield (language, passage) of joined messages.

    English comes from the sources of the translations.
    """
    english: list[str] = []
    for language in LOCALES:
        messages = [message for root in roots for message in read_package(root, language)]
        english += [message.source for message in messages]
        translated = _distinct(
            message.translation for message in messages if message.translation != message.source
        )
        characters = PASSAGE_CHARACTERS.get(language, LATIN_CHARACTERS)
        yield from ((language, parted(text)) for text in passages(translated, characters))
    yield from (("en", parted(text)) for text in passages(_distinct(english), LATIN_CHARACTERS))


def _distinct(messages: Iterable[str]) -> list[str]:
    """Keep the first spelling of each message, and no fragments."""
    first: dict[str, str] = {}
    for message in messages:
        if len(message) >= SHORTEST_MESSAGE:
            first.setdefault(normalised(message), message)
    return list(first.values())


def parted(text: str) -> Excerpt:
    """Search the last three quarters of a passage by its first two fifths.

    The messages of one screen belong together. The small overlap leaves the search possible, but
    not a plain match.
    """
    return Excerpt(
        text,
        text[: _word_end(text, len(text) * 2 // 5)].strip(),
        text[_word_end(text, len(text) // 4) :].strip(),
    )


def _word_end(text: str, position: int) -> int:
    """Return the end of the word at `position`, or `position` itself where no space follows."""
    space = text.find(" ", position)
    return space if space > 0 else position


def records(roots: list[Path]) -> list[Record]:
    """Gather every text once, whatever its domain; earlier domains win."""
    groups = [
        *(("docs", "en", excerpt) for excerpt in documentation()),
        *(("code", "en", excerpt) for excerpt in _sample(functions(), CODE_ROWS)),
        *(("docstrings", "en", excerpt) for excerpt in _sample(docstrings(), DOCSTRING_ROWS)),
        *(("interface", language, excerpt) for language, excerpt in interface_texts(roots)),
    ]
    unique: dict[str, Record] = {}
    for domain, language, excerpt in groups:
        digest = fingerprint(excerpt.text)
        unique.setdefault(digest, Record(excerpt, domain, language, digest))
    return list(unique.values())


def _sample(excerpts: Iterable[Excerpt], at_most: int) -> list[Excerpt]:
    """Keep the excerpts of lowest hash: the same ones on every run, from all over the library."""
    unique = {fingerprint(excerpt.text): excerpt for excerpt in excerpts}
    # A second hash: keeping the lowest of the splitting hash would put all of them into one split.
    lowest = sorted(unique, key=lambda digest: fingerprint(f"sample {digest}"))[:at_most]
    return [unique[digest] for digest in lowest]


def corpus_rows(gathered: list[Record], split: str) -> list[CorpusRow]:
    """Turn the records of one split into rows."""
    return [
        CorpusRow(
            record.digest[:16], Payload(text=record.excerpt.text), record.domain, record.language
        )
        for record in gathered
        if record.split == split
    ]


def golden_cases(gathered: list[Record]) -> list[GoldenCase]:
    """Return fidelity and retrieval cases of every (domain, language), then the safety cases."""
    outside = "\n".join(
        normalised(record.excerpt.text) for record in gathered if record.split != "golden"
    )
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in gathered:
        if record.split == "golden":
            groups[record.domain, record.language].append(record)
    cases = [case for key in sorted(groups) for case in _group_cases(groups[key], outside)]
    return cases + safety_cases()


def _group_cases(group: list[Record], outside: str) -> list[GoldenCase]:
    """Take passages, their queries and fidelity cases of one (domain, language).

    They come from different records.
    """
    many, queried = MANY_RETRIEVALS if group[0].language in MANY_IN_LANGUAGES else FEW_RETRIEVALS
    ordered = sorted(group, key=lambda record: record.digest)
    searched = [record for record in ordered if _searchable(record.excerpt, outside)][:many]
    passages = [_case(record, "passage", record.excerpt.passage or "") for record in searched]
    queries = [
        replace(_case(record, "query", record.excerpt.query or ""), relevant=(passage.case_id,))
        for record, passage in zip(searched[:queried], passages, strict=False)
    ]
    rest = [record for record in ordered if record not in searched][:PLAIN_CASES]
    return passages + queries + [_case(record, "plain", record.excerpt.text) for record in rest]


def _searchable(excerpt: Excerpt, outside: str) -> bool:
    """Say whether neither query nor passage occurs, even as a part, in traffic or calibration."""
    return (
        excerpt.query is not None
        and excerpt.passage is not None
        and normalised(excerpt.query) not in outside
        and normalised(excerpt.passage) not in outside
    )


def _case(record: Record, kind: str, text: str) -> GoldenCase:
    """Name a case by its kind and content."""
    return GoldenCase(
        f"{kind}-{fingerprint(text)[:16]}", Payload(text=text), record.domain, record.language, kind
    )


def safety_cases() -> list[GoldenCase]:
    """Turn the authored golden texts into labelled cases."""
    return [
        GoldenCase(
            f"safety-{fingerprint(entry.text)[:16]}",
            Payload(text=entry.text),
            "safety",
            entry.language,
            "safety",
            entry.label,
        )
        for entry in SAFETY_GOLDEN
    ]


def licences(roots: list[Path]) -> str:
    """Compose the LICENSES file: what came from where, in which version, under which terms."""
    python = platform.python_version()
    parts = [
        f"""Sources of traffic.parquet, calibration.parquet and golden.parquet
==================================================================

docs        pydoc_data.topics of Python {python}: Python Software Foundation License Version 2.
code        functions of the standard library of Python {python}, without docstrings: same licence.
docstrings  docstrings of the standard library of Python {python}: same licence.
interface   messages and their translations from the catalogues of Django, Wagtail and Sphinx (BSD licences,
            below), by the translators named in those packages.
safety      written for Requant: Apache License 2.0, as the project.

Changes made: the texts were cut into passages, consecutive messages were joined, white space was collapsed, format
placeholders became an ellipsis or a number, and markup was removed. Standard-library modules that carry further
licences were left out. safety.safetensors holds a linear head that was trained by train_safety_head.py: Apache
License 2.0."""
    ]
    for root in roots:
        (distribution,) = importlib.metadata.distributions(name=root.name, path=[str(root.parent)])
        texts = [
            file.read_text()
            for file in distribution.files or []
            if "dist-info" in str(file)
            and file.name.upper().split(".")[0] == "LICENSE"
            and file.suffix != ".python"
        ]
        parts.append(_section(f"{root.name} {distribution.version}", "\n".join(texts)))
    psf = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    parts.append(_section(f"Python {python}", psf.read_text(encoding="utf-8")))
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> str:
    """Set a licence text under its title."""
    return f"{title}\n{'-' * len(title)}\n\n{text.strip()}"


def report(rows: dict[str, list[CorpusRow]], cases: list[GoldenCase]) -> str:
    """Count rows per split, domain and language."""
    lines = [f"{'split':<12}{'domain':<12}{'language':<10}rows"]
    for split, split_rows in rows.items():
        counts = Counter((row.domain, row.language) for row in split_rows)
        lines += [
            f"{split:<12}{domain:<12}{language:<10}{count}"
            for (domain, language), count in sorted(counts.items())
        ]
    kinds = Counter((case.kind, case.domain, case.language) for case in cases)
    lines += [
        f"{'golden':<12}{domain:<12}{language:<10}{count} {kind}"
        for (kind, domain, language), count in sorted(kinds.items())
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the three parquet files and LICENSES beside this script, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, help="folder that holds django, wagtail and sphinx"
    )
    parser.add_argument(
        "--output", type=Path, default=HERE, help="where to write (default: beside this script)"
    )
    arguments = parser.parse_args()
    roots = [locate(name, arguments.packages) for name in CATALOGUE_PACKAGES]
    gathered = records(roots)
    rows = {split: corpus_rows(gathered, split) for split in ("traffic", "calibration")}
    cases = golden_cases(gathered)
    for split, split_rows in rows.items():
        write(arguments.output / f"{split}.parquet", split_rows)
    write(arguments.output / "golden.parquet", cases)
    (arguments.output / "LICENSES").write_text(licences(roots), encoding="utf-8")
    print(report(rows, cases))


if __name__ == "__main__":
    main()
