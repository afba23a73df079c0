"""All requests beside the champion's: what the sample left out is counted too, and only informs."""

from tasks.drift.detectors.whole_traffic import SUBJECT, whole_traffic
from tasks.profiles import ProfileSettings, empty, profile_batch
from tasks.profiles.frozen import freeze
from tasks.records import Finding
from tests.unit.tasks.profiles.traffic import batch, request

SMALL = ProfileSettings(reservoir=8, fourier_features=8)
BEFORE = [
    request(f"r{n}", payload="a word " * (1 + n % 7), tenant=f"t{n % 3}", language="en")
    for n in range(300)
]
AFTER = [
    request(f"s{n}", payload="слов о " * (1 + n % 7), tenant="t0", language="ru" if n % 2 else "en")
    for n in range(300)
]


def found(current: list[Finding] | tuple[Finding, ...]) -> dict[str, Finding]:
    return {one.subject.removeprefix(f"{SUBJECT}: "): one for one in current}


def test_a_new_language_is_told_with_its_share_and_triggers_nothing() -> None:
    reference = freeze(profile_batch(batch(BEFORE), SMALL))
    findings = found(whole_traffic(reference, profile_batch(batch(AFTER), SMALL), 0.2))
    assert findings["language"].value > 0.5
    assert "en 100 % -> 50 %" in findings["language"].text
    assert findings["script"].value > 0.5
    assert findings["length"].value < 0.2
    assert not any(one.exceeded for one in findings.values())
    summary = findings[SUBJECT].text
    assert "300 requests in the window's hours, 300 in the champion's; 1 tenants" in summary
    assert "squared MMD of text embeddings" in summary


def test_the_same_traffic_has_not_moved() -> None:
    profile = profile_batch(batch(BEFORE), SMALL)
    findings = whole_traffic(freeze(profile), profile, 0.2)
    assert max(one.value for one in findings[1:]) == 0
    assert (
        findings[0].text.endswith("squared MMD of text embeddings 0")
        or "e-" in findings[0].text.rsplit(" ", 1)[1]
    )


def test_requests_that_were_delivered_again_are_told() -> None:
    profile = profile_batch(batch([*BEFORE, *BEFORE[:150]]), SMALL)
    assert "delivered again" in whole_traffic(freeze(profile), profile, 0.2)[0].text


def test_nothing_is_told_of_no_traffic() -> None:
    profile = profile_batch(batch(BEFORE), SMALL)
    assert whole_traffic(freeze(empty(SMALL)), profile, 0.2) == ()
    assert whole_traffic(freeze(profile), empty(SMALL), 0.2) == ()
