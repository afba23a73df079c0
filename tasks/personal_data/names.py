"""Personal data in what is short and comes often: tenants, versions, names of files, labels.

Unlike texts of requests, they are read by every recognizer that is installed: there are few of
them, and each is remembered.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from types import MappingProxyType

from tasks.personal_data.identifiers import missing, scrub
from tasks.personal_data.redaction import Redacted, redact


def clean(text: str) -> Redacted:
    """Replace what patterns recognize, and the libraries where they are installed.

    Doing it twice changes nothing more.
    """
    by_patterns = redact(text)
    if not _has_libraries():
        return by_patterns
    by_libraries = scrub(by_patterns.text)
    counts = Counter(by_patterns.counts) + Counter(by_libraries.counts)
    return Redacted(by_libraries.text, MappingProxyType(dict(counts)))


@lru_cache(maxsize=1)
def _has_libraries() -> bool:
    return missing() is None
