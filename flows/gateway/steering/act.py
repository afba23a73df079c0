"""`python -m flows.gateway.steering.act`: change a champion for the gateway.

It is a process of its own, so that the gateway need not load the registry's client.

    promote MODEL VERSION RELEASE BASE REASON
    roll-back MODEL VERSION REASON REQUEST
"""

from __future__ import annotations

import sys

from infra.errors import RequantError
from infra.identifiers import Digest, ModelName
from infra.run_scope import run_scope
from infra.settings import use_workspace
from tasks.promotion.acts import promoting
from tasks.promotion.serving.incidents import ACTOR
from tasks.records import ReleaseRef


def main(arguments: list[str]) -> None:
    """Do one act; an error is one sentence on standard error."""
    use_workspace(None)
    act, model, *rest = arguments
    with run_scope():
        if act == "promote":
            version, release, base, reason = rest
            named = ReleaseRef(ModelName(model), version, Digest(release))
            promoting.promote(named, base, ACTOR, reason)
        else:
            version, reason, request = rest
            promoting.roll_back(model, version, ACTOR, reason, request)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RequantError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
