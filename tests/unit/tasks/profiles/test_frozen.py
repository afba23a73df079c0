"""A release's reference: edges stay, counts are exact, and nobody is named."""

import pytest

from infra.errors import BadInput, Tampered
from tasks.profiles import ProfileSettings, profile_batch
from tasks.profiles.frozen import freeze, parse_frozen
from tests.unit.tasks.profiles.traffic import batch, request

SMALL = ProfileSettings(reservoir=8, fourier_features=8)
TRAFFIC = [
    request(
        f"r{n}", payload="word " * (n + 1), tenant=f"acme-{n}", language="en" if n % 4 else "th"
    )
    for n in range(40)
]


def test_it_survives_its_document_and_names_no_tenant_and_no_request() -> None:
    frozen = freeze(profile_batch(batch(TRAFFIC), SMALL))
    data = frozen.document()
    assert parse_frozen(data, where="it") == frozen
    assert data == freeze(profile_batch(batch(TRAFFIC[::-1]), SMALL)).document()
    assert b"acme" not in data
    assert b"r39" not in data
    assert frozen.names["language"] == {"en": 30, "th": 10}


def test_its_bins_hold_what_any_profile_counts_between_its_edges() -> None:
    profile = profile_batch(batch(TRAFFIC), SMALL)
    lengths = freeze(profile).numbers["length"]
    assert list(lengths.counts) == profile.histogram("length", lengths.edges).tolist()
    assert sum(lengths.counts) == 40
    assert max(lengths.counts) <= 8  # between deciles, which the grid moves a little


def test_no_traffic_freezes_to_nothing() -> None:
    frozen = freeze(profile_batch(batch([]), SMALL))
    assert (frozen.rows, dict(frozen.numbers), dict(frozen.fourier_features)) == (0, {}, {})


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 1, "numbers": 3}'])
def test_a_damaged_one_is_refused(data: bytes) -> None:
    with pytest.raises(Tampered, match="it is not a frozen profile"):
        parse_frozen(data, where="it")


def test_one_of_another_version_is_refused() -> None:
    data = (
        freeze(profile_batch(batch(TRAFFIC), SMALL))
        .document()
        .replace(b'"version":1', b'"version":9')
    )
    with pytest.raises(BadInput, match="it has version 9, not 1"):
        parse_frozen(data, where="it")
