"""Functions of a user's own, by "package.module:name", from places that the settings trust."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from infra.errors import BadInput, Refused

SETTING = "REQUANT_TRUSTED_METRICS"


def trusted_places(setting: str) -> tuple[str, ...]:
    """Return the packages and folders of a setting, parted by commas or the system's separator."""
    parts = setting.replace(os.pathsep, ",").split(",")
    return tuple(part.strip() for part in parts if part.strip())


def load_function(name: str, trusted: Iterable[str]) -> Callable[..., Any]:
    """Import a function of a trusted module.

    Args:
        name: "package.module:function".
        trusted: names of packages, and folders that hold modules.

    Raises:
        Refused: the module lies in no trusted package or folder; nothing of it was run.
        BadInput: it cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    _require_trusted(module_name, name, tuple(trusted))
    try:
        module = importlib.import_module(module_name)
    except Exception as exc:  # a module's own code raises whatever it likes
        line = " ".join(str(exc).split())[:300]
        raise BadInput(f"{name} cannot be imported ({type(exc).__name__}: {line})") from exc
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BadInput(f"{module_name} has no function {function_name}")
    loaded: Callable[..., Any] = function
    return loaded


def source_digest(name: str, trusted: Iterable[str]) -> str:
    """Return SHA-256 of the file that defines a function: another text may judge otherwise.

    It raises as `load_function` does.
    """
    load_function(name, trusted)
    path = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return sha256(Path(path).read_bytes() if path else name.encode()).hexdigest()


def _require_trusted(module: str, name: str, trusted: tuple[str, ...]) -> None:
    top = module.partition(".")[0]
    for place in trusted:
        if _is_folder(place):
            folder = str(Path(place).expanduser().resolve())
            spec = PathFinder.find_spec(top, [folder])
            if spec is None:
                continue
            _require_same(top, folder, name)
            if folder not in sys.path:
                sys.path.append(folder)
            importlib.invalidate_caches()
            return
        if module == place or module.startswith(f"{place}."):
            return
    raise Refused(
        f"{name} is not trusted: name its package or its folder in {SETTING} "
        f"({', '.join(trusted) or 'which is empty'})"
    )


def _is_folder(place: str) -> bool:
    return os.sep in place or place.startswith((".", "~"))


def _require_same(top: str, folder: str, name: str) -> None:
    """Refuse a module that another of the same name would stand in for."""
    spec = sys.modules[top].__spec__ if top in sys.modules else importlib.util.find_spec(top)
    origins = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    if spec is not None and not any(str(origin).startswith(folder + os.sep) for origin in origins):
        raise Refused(
            f"{name}: a module {top} of another place comes first ({origins[0]}): "
            "give yours another name"
        )
