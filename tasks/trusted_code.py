"""Functions of a user's own, by "package.module:name", from places that the settings trust.

Nothing of a module is run before it is known where it lies.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from infra.errors import BadInput, Refused

SETTING = "REQUANT_TRUSTED_METRICS"
_imported: dict[str, str] = {}
"""Modules that were imported here, with the digest of their file at that time."""


@dataclass(frozen=True, slots=True)
class TrustedFunction:
    """A function, and where its module lies."""

    module: str
    function: str
    folder: str | None  # a trusted one, that may have to be searched; None of an installed package
    file: Path

    @property
    def digest(self) -> str:
        """Return SHA-256 of the file: another text may judge otherwise."""
        return sha256(self.file.read_bytes()).hexdigest()


def trusted_places(setting: str) -> tuple[str, ...]:
    """Return the packages and folders of a setting, parted by commas or the system's separator."""
    parts = setting.replace(os.pathsep, ",").split(",")
    return tuple(part.strip() for part in parts if part.strip())


def locate(name: str, trusted: Iterable[str]) -> TrustedFunction:
    """Find a function's module without running anything of it.

    Args:
        name: "package.module:function".
        trusted: names of packages, and folders that hold modules.

    Raises:
        Refused: the module lies in no trusted package or folder, or leads out of it by a link.
        BadInput: there is no such module.
    """
    module, _, function = name.partition(":")
    places = tuple(trusted)
    for place in places:
        if _is_folder(place):
            root = Path(place).expanduser().resolve()
            path = _chain(module, [str(root)], name)
            if path is not None:
                _require_inside(path, root, name)
                _require_same(module.partition(".")[0], root, name)
                return TrustedFunction(module, function, str(root), _file(path[-1], name))
        elif module == place or module.startswith(f"{place}."):
            path = _chain(module, None, name)
            if path is None:
                raise BadInput(f"{name} cannot be imported: there is no module {module}")
            return TrustedFunction(module, function, None, _file(path[-1], name))
    raise Refused(
        f"{name} is not trusted: name its package or its folder in {SETTING} "
        f"({', '.join(places) or 'which is empty'})"
    )


def load_function(name: str, trusted: Iterable[str]) -> Callable[..., Any]:
    """Import a function of a trusted module into this process; what it prints goes to stderr.

    A module whose file has changed since it was imported is imported again.

    Raises:
        Refused: as `locate` does.
        BadInput: it cannot be imported, or has no such function.
    """
    found = locate(name, trusted)
    if found.folder is not None and found.folder not in sys.path:
        sys.path.append(found.folder)
    importlib.invalidate_caches()
    digest = found.digest
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(found.module)
            if _imported.get(found.module, digest) != digest:
                module = importlib.reload(module)
    except (Exception, SystemExit) as exc:  # a module's own code raises whatever it likes
        line = " ".join(str(exc).split())[:300]
        raise BadInput(f"{name} cannot be imported ({type(exc).__name__}: {line})") from exc
    _imported[found.module] = digest
    function = getattr(module, found.function, None)
    if not callable(function):
        raise BadInput(f"{found.module} has no function {found.function}")
    loaded: Callable[..., Any] = function
    return loaded


def source_digest(name: str, trusted: Iterable[str]) -> str:
    """Return SHA-256 of the file that defines a function; it raises as `locate` does."""
    return locate(name, trusted).digest


def _is_folder(place: str) -> bool:
    return os.sep in place or place.startswith((".", "~"))


def _chain(module: str, path: list[str] | None, name: str) -> list[ModuleSpec] | None:
    """Return the specs from the top package down to the module; None where there is no top."""
    top, *rest = module.split(".")
    first = importlib.util.find_spec(top) if path is None else PathFinder.find_spec(top, path)
    if first is None:
        return None
    specs = [first]
    for part in rest:
        inside = list(specs[-1].submodule_search_locations or ())
        spec = PathFinder.find_spec(f"{specs[-1].name}.{part}", inside)
        if spec is None:
            raise BadInput(f"{name} cannot be imported: {specs[-1].name} has no module {part}")
        specs.append(spec)
    return specs


def _file(spec: ModuleSpec, name: str) -> Path:
    if spec.origin is None or not Path(spec.origin).is_file():
        raise BadInput(f"{name} cannot be imported: {spec.name} is no module of a file")
    return Path(spec.origin)


def _places(spec: ModuleSpec) -> list[str]:
    return [*filter(None, [spec.origin]), *(spec.submodule_search_locations or ())]


def _require_inside(specs: Sequence[ModuleSpec], root: Path, name: str) -> None:
    """Refuse a module, or a package above it, that a link brings in from elsewhere."""
    for place in (place for spec in specs for place in _places(spec)):
        real = Path(place).resolve()
        if not real.is_relative_to(root):
            raise Refused(
                f"{name} is not trusted: {place} is a link to {real}, outside of {root}; "
                f"name the folder where it lies in {SETTING}"
            )


def _require_same(top: str, root: Path, name: str) -> None:
    """Refuse a module that another of the same name would stand in for."""
    spec = sys.modules[top].__spec__ if top in sys.modules else importlib.util.find_spec(top)
    places = _places(spec) if spec is not None else []
    if spec is not None and not any(Path(p).resolve().is_relative_to(root) for p in places):
        raise Refused(
            f"{name}: a module {top} of another place comes first "
            f"({places[0] if places else 'built in'}): give yours another name"
        )
