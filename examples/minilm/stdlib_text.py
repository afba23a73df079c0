"""Technical English and Python code out of the running interpreter's own standard library."""

import ast
import inspect
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

# Tests and generated tables are no prose; the others carry licences beside the PSF's.
_LEFT_OUT = {
    "asynchat.py", "asyncore.py", "cookies.py", "dist-packages", "encodings", "ensurepip",
    "idlelib", "lib2to3", "pydoc_data", "random.py", "site-packages", "smtpd.py", "test", "tests",
    "trace.py", "turtledemo", "uu.py", "xmlrpc",
}  # fmt: skip
_WORDS_A_CHUNK = 45
_CODE_CHARACTERS = (160, 900)
_PROSE_CHARACTERS = (120, 600)
_SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"*])")
_RULE = re.compile(r"[*=~^-]{4,}")


@dataclass(frozen=True)
class Excerpt:
    """A text and, where it has one, the phrase that a reader would search it by."""

    text: str
    query: str | None = None
    passage: str | None = None


def documentation() -> Iterator[Excerpt]:
    """Yield chunks of about 45 words of the language reference.

    A paragraph shared by two topics comes once.
    """
    met: set[str] = set()
    for name in sorted(topics):
        chunk: list[str] = []
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            text = (
                " ".join(_RULE.sub(". ", paragraph).split()).replace(" . ", ". ").removesuffix(" .")
            )
            if text in met or not text:
                continue
            met.add(text)
            chunk.append(text)
            if sum(len(part.split()) for part in chunk) >= _WORDS_A_CHUNK:
                yield _searchable(" ".join(chunk))
                chunk = []


def _searchable(prose: str) -> Excerpt:
    """Take the first sentence as the query and the rest as the passage.

    None where one of them says nothing.
    """
    parts = _SENTENCE.split(prose, maxsplit=1)
    if len(parts) == 2 and 30 <= len(parts[0]) <= 200 and len(parts[1]) >= 80:
        return Excerpt(prose, parts[0], parts[1])
    return Excerpt(prose)


def _modules() -> Iterator[tuple[ast.Module, list[str]]]:
    """Yield the syntax tree and source lines of the modules that the PSF licence alone covers."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not _LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            yield ast.parse(source), source.splitlines()
        except (UnicodeDecodeError, SyntaxError):
            continue


def functions() -> Iterator[Excerpt]:
    """Yield function sources without their docstring; the docstring's summary is the query."""
    for tree, lines in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                code = _without_docstring(node, lines)
                if _CODE_CHARACTERS[0] <= len(code) <= _CODE_CHARACTERS[1]:
                    yield Excerpt(code, _summary(ast.get_docstring(node)), code)


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """Cut the docstring's lines out of a function's source, and indent to the left margin."""
    first = node.body[0]
    remaining = lines[node.lineno - 1 : node.end_lineno]
    if ast.get_docstring(node) is not None and first.end_lineno is not None:
        remaining = (
            lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        )
    return textwrap.dedent("\n".join(remaining)).strip()


def _summary(docstring: str | None) -> str | None:
    """Return the first sentence of a docstring if it has at least four words."""
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    sentence = _SENTENCE.split(paragraph, maxsplit=1)[0]
    return sentence if len(sentence.split()) >= 4 and len(sentence) <= 160 else None


def docstrings() -> Iterator[Excerpt]:
    """Yield the prose of module, class and function docstrings.

    The summary is the query, the rest the passage.
    """
    for tree, _ in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                prose = " ".join(inspect.cleandoc(ast.get_docstring(node) or "").split())
                if _PROSE_CHARACTERS[0] <= len(prose) <= _PROSE_CHARACTERS[1]:
                    yield _searchable(prose)
