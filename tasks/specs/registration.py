"""Which models are registered, under which digest, with which spec.

`tasks.models.catalog` opens them to be run. Commands that only read stand on this module: it
imports nothing of a model's graph, engine or data.

    models/NAME/DIGEST/<file>   immutable, addressed by content
    models/NAME/current         the digest in use
"""

import json
from functools import lru_cache

from infra.errors import BadInput, NotFound
from infra.identifiers import Digest, ModelName
from infra.run_scope import once, read_once
from infra.settings import settings
from infra.stores import ObjectStore, layout
from tasks.specs.spec import ModelSpec, parse_spec

OPEN_SPECS = 4096
"""Specs that one process keeps: more than models, or a page of all would parse each anew."""


def model_names(store: ObjectStore) -> list[ModelName]:
    """Return all registered models, sorted."""
    kind = layout.REGISTRATION_IN_USE
    parsed = (kind.fields(key) for key in store.list(kind.prefix()))
    return sorted(ModelName(fields["model"]) for fields in parsed if fields is not None)


def current_digest(name: str) -> Digest:
    """Return the digest in use under a name; a run works with the same from beginning to end.

    Raises:
        NotFound: naming the known models.
        BadInput: when what is stored is no digest.
    """
    store = settings().store()
    return once("current", store.url, name, open_it=lambda: _read_current(store, name))


def _read_current(store: ObjectStore, name: str) -> Digest:
    try:
        data = store.get(layout.registration_in_use(name))
    except NotFound as exc:
        names = ", ".join(model_names(store)) or "none yet"
        raise NotFound(
            f"no model is called {name!r} (known: {names}): add it with `requant model add "
            "SPEC.yaml`"
        ) from exc
    try:
        return Digest(json.loads(data)["digest"])
    except (ValueError, KeyError, TypeError) as exc:
        raise BadInput(
            f"{layout.registration_in_use(name)} is damaged: "
            f"run `requant model add` again for {name}"
        ) from exc


def use_digest(name: str, digest: str) -> None:
    """Bring a stored registration into use."""
    document = json.dumps({"version": 1, "digest": digest})
    settings().store().put(layout.registration_in_use(name), document.encode())


def current_spec(name: str) -> ModelSpec:
    """Return the spec in use under a name; raise as `current_digest` and `read_spec` do."""
    return read_spec(name, current_digest(name))


def read_spec(name: str, digest: str) -> ModelSpec:
    """Return the spec of one registration, as it was registered.

    Raises:
        NotFound: when there is no such registration.
        BadInput: when what is stored is no spec.
    """
    return _parsed(settings().store().url, name, digest)


def read_file(name: str, digest: str, file: str) -> bytes:
    """Return one file of a registration; raise `NotFound`."""
    return read_once(settings().store(), layout.registration_file(name, digest, file))


@lru_cache(maxsize=OPEN_SPECS)
def _parsed(address: str, name: str, digest: str) -> ModelSpec:
    text = read_file(name, digest, "spec.yaml").decode()
    return parse_spec(text, where=f"the registered spec of {name}")
