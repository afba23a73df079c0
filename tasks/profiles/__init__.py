"""Mergeable profiles of traffic (ADR 17).

Each part is read once, ever, and all of them together tell of a window.
"""

from tasks.profiles.archive import dump, parse
from tasks.profiles.columns.quantiles import snapped
from tasks.profiles.profile import Kept, Profile, empty, merge
from tasks.profiles.scan import Scan, profile_batch, profile_batches
from tasks.profiles.settings import VERSION, ProfileSettings
from tasks.profiles.window import (
    PartProfile,
    WindowProfile,
    profile_key,
    profile_part,
    profile_window,
)

__all__ = [
    "VERSION",
    "Kept",
    "PartProfile",
    "Profile",
    "ProfileSettings",
    "Scan",
    "WindowProfile",
    "dump",
    "empty",
    "merge",
    "parse",
    "profile_batch",
    "profile_batches",
    "profile_key",
    "profile_part",
    "profile_window",
    "snapped",
]
