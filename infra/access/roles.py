"""Who may do what: roles, each given for one model or for all. Pure.

Roles are no ladder: an approver orders no runs and an operator approves none, so that two people
are needed where both happen (separation of duties, NIST SP 800-53 AC-5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from infra.errors import BadInput

EVERY = "*"
"""Stands for all models: who needs a role there needs it for all."""
ANY = "?"
"""Stands for some model: who needs a role there needs it for one at least."""


class Role(StrEnum):
    """What a user may do."""

    VIEWER = "viewer"  # read pages, reports and figures, and ask the model
    OPERATOR = "operator"  # order runs, roll back, stop and begin deliveries; and view
    APPROVER = "approver"  # answer candidates that wait; and view
    ADMIN = "admin"  # all of that, users, keys, specs, and what removes data


Needs = tuple[Role, str]
"""A role, and the model that it is needed for."""
_INCLUDED = {
    Role.VIEWER: {Role.VIEWER},
    Role.OPERATOR: {Role.VIEWER, Role.OPERATOR},
    Role.APPROVER: {Role.VIEWER, Role.APPROVER},
    Role.ADMIN: set(Role),
}


@dataclass(frozen=True, slots=True)
class Grant:
    """One role for one model, or for `EVERY` one."""

    role: Role
    model: str

    def __str__(self) -> str:
        return str(self.role) if self.model == EVERY else f"{self.role}:{self.model}"


def parse_grant(text: str) -> Grant:
    """Read "operator" (of all models) or "operator:minilm".

    Raises:
        BadInput: There is no such role, or the model is left out behind the colon.
    """
    name, colon, model = text.partition(":")
    if name not in set(Role) or (colon and not model):
        raise BadInput(
            f"the role {text!r} is none: give {', '.join(Role)}, and :MODEL behind it for one model"
        )
    return Grant(Role(name), model or EVERY)


def allows(grants: Iterable[Grant], role: Role, model: str) -> bool:
    """Return whether somebody with these grants has a role for a model, `EVERY` one or `ANY`."""
    return any(
        role in _INCLUDED[grant.role] and (model == ANY or grant.model in (EVERY, model))
        for grant in grants
    )
