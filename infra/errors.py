"""Every error that Requant raises on purpose.

RequantError
├── BadInput        what the caller handed over is wrong: a spec, a file, an argument (exit code 2)
├── Unavailable     the outside world did not answer: store, registry, orchestrator (exit code 2)
├── Refused         the request is well formed, and the answer is no (exit code 1)
│   ├── NotAllowed  who asks lacks the role that this needs (exit code 1)
│   └── Tampered    bytes do not match what was recorded or signed (exit code 2)
├── AlreadyExists   a create-if-absent found the key taken: somebody else was first
└── NotFound        no object, model or version of that name
Vendor errors are translated at the edge where they are raised, and chained.
Each message is one sentence: what was wrong, where, and what to do.
"""


class RequantError(Exception):
    """Base of all of them; `exit_code` is what the command line returns."""

    exit_code = 2


class BadInput(RequantError):
    """A spec, file or argument is wrong; the message says where and what is allowed."""


class Unavailable(RequantError):
    """A store, registry or server did not answer or answered with its own failure."""


class Refused(RequantError):
    """A well-formed request was declined: a gate failed, an approval is missing."""

    exit_code = 1


class NotAllowed(Refused):
    """Who asks is not known, or lacks the role that the act needs."""


class Tampered(Refused):
    """Bytes differ from their recorded digest or signature; they were not loaded."""

    exit_code = 2


class AlreadyExists(RequantError):
    """The key is taken: a concurrent writer created it first."""

    exit_code = 1


class NotFound(RequantError):
    """No object, model or version bears that name."""
