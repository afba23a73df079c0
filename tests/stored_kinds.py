"""Which kinds of stored objects a key may belong to."""

from infra.stores.layout import KINDS, ObjectKind


def kinds_of(key: str) -> tuple[ObjectKind, ...]:
    """Return the kinds that a key may belong to: one, unless it is none of ours."""
    return tuple(kind for kind in KINDS if kind.fields(key) is not None)
