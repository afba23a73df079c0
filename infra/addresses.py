"""Addresses as people may see them."""

import re


def without_password(address: str) -> str:
    """Return the address without user name and password."""
    return re.sub(r"//[^/]*@", "//", address, count=1)
