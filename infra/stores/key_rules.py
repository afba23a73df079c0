"""Which keys every store accepts, so that a key good in one store is good in all."""

from __future__ import annotations

from infra.errors import BadInput

_LONGEST_KEY = 1024  # bytes; S3's limit
_LONGEST_PART = 255  # bytes; the limit of a file name


def checked(key: str) -> str:
    """Return the key itself, once it was checked.

    Raises:
        BadInput: The key is not relative and "/"-separated, or has an empty, "." or ".." part.
    """
    parts = key.split("/")
    _refuse_bad_parts(key, parts)
    if "" in parts:
        raise BadInput(
            f"The object key {key!r} is empty, absolute or has an empty part: "
            "write it like 'a/b.json'."
        )
    if len(key.encode()) > _LONGEST_KEY or any(
        len(part.encode()) > _LONGEST_PART for part in parts
    ):
        raise BadInput(
            f"The object key {key[:80]!r}... is too long: keep to 1024 bytes, 255 between slashes."
        )
    return key


def checked_prefix(prefix: str) -> str:
    """Return the prefix itself, which may be empty or end anywhere in a key.

    Raises:
        BadInput: Its parts are such as `checked` refuses.
    """
    _refuse_bad_parts(prefix, prefix.split("/"))
    if prefix.startswith("/") or "//" in prefix:
        raise BadInput(
            f"The key prefix {prefix!r} is absolute or has an empty part: write it like 'a/b'."
        )
    return prefix


def _refuse_bad_parts(key: str, parts: list[str]) -> None:
    if ".." in parts or "." in parts:
        raise BadInput(
            f"The object key {key!r} has a '.' or '..' part: "
            "name the object by its own path in the store."
        )
    if parts[0] == ".partial" or "\\" in key or any(ord(letter) < 32 for letter in key):
        raise BadInput(
            f"The object key {key!r} has a reserved part or letter: "
            "no '.partial', backslash or control."
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"The object key {key!r} cannot be written as UTF-8: use valid text."
        ) from error
