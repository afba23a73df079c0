"""Every benchmark is where its name leads, also the ones that no test can afford to run."""

import importlib.util

import pytest

from benchmarks.__main__ import MODULES


@pytest.mark.parametrize("name", MODULES)
def test_a_name_leads_to_a_module(name: str) -> None:
    assert importlib.util.find_spec(MODULES[name])
