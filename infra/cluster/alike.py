"""Whether two processes would give the same results: versions, own code, the store they see."""

import platform
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

PACKAGES = ("requant", "numpy", "onnxruntime", "pyarrow", "dask", "distributed")
"""What a worker must have in the version of the caller."""
_PACKAGES = ("infra", "tasks", "flows")


@cache
def identity() -> Mapping[str, str]:
    """Return the versions that results depend on, and a digest of our own code."""
    return {
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "code": _code(),
    }


def sees_store(address: str) -> bool:
    """Tell whether a folder that serves as a store is there.

    A store on the network answers for itself.
    """
    where = urlsplit(address)
    return where.scheme != "file" or Path(unquote(where.path)).is_dir()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _code() -> str:
    digest, root = sha256(), Path(__file__).resolve().parents[2]
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
