"""Addresses as people may see them, and where what runs in a workspace listens."""

import json
import re
from contextlib import suppress
from pathlib import Path


def without_password(address: str) -> str:
    """Return the address without user name and password."""
    return re.sub(r"//[^/]*@", "//", address, count=1)


def notes_of(root: Path) -> Path:
    """Return the file in which `requant up` notes where its services listen, while it runs."""
    return root / "run" / "services.json"


def noted_addresses(root: Path) -> dict[str, str]:
    """Return service -> address as it is noted; empty where nothing is, or it cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        noted = json.loads(notes_of(root).read_text())["addresses"]
        return {str(name): str(address) for name, address in noted.items()}
    return {}
