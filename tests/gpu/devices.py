"""Why a test cannot run here, in words, or None."""

from __future__ import annotations

from functools import cache

import pytest


@cache
def why_no_cuda() -> str | None:
    """Torch and a visible device."""
    try:
        import torch
    except ImportError as exc:
        return f"torch is not installed ({exc})"
    if not torch.cuda.is_available():
        return f"no CUDA device is visible to torch {torch.__version__} (CUDA {torch.version.cuda})"
    return None


@cache
def why_not(target: str) -> str | None:
    """Say why a target's engines do not run here."""
    try:
        from infra.engines import open_target
        from infra.errors import Unavailable
    except ImportError as exc:
        return f"{target} needs more of Requant's dependencies ({exc})"
    try:
        return why_no_cuda() or open_target(target).why_not_executable()
    except (Unavailable, ImportError) as exc:
        return str(exc)


NEEDS_CUDA = pytest.mark.skipif(why_no_cuda() is not None, reason=str(why_no_cuda()))
