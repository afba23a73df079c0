"""What is kept beside a plan, and which hosts it speaks against."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.canonical import sha256
from infra.engine_options.building import BuildOptions, HardwareCompatibility
from infra.engines.nvidia.host import Host, parse_driver
from infra.engines.nvidia.metadata import PlanMetadata, dump_metadata, parse_metadata, why_unfit
from infra.errors import BadInput

PLAN = b"plan"
HERE = Host("tensorrt", "10.12.0.36", "SM89", "NVIDIA L4", "580.65.06", "13.0")


def metadata(**changes: object) -> PlanMetadata:
    facts: dict[str, object] = {
        "target": "tensorrt",
        "module": HERE.module,
        "module_version": HERE.version,
        "capability": "SM89",
        "device": HERE.device,
        "driver": HERE.driver,
        "cuda": HERE.cuda,
        "options": BuildOptions(),
        "build_seconds": 1.5,
        "plan_sha256": sha256(PLAN),
        **changes,
    }
    return PlanMetadata.model_validate(facts)


def options(**changes: object) -> dict[str, object]:
    return {"options": replace(BuildOptions(), **changes)}  # type: ignore[arg-type]  # of each field's own type


def why(host: Host = HERE, **changes: object) -> str | None:
    return why_unfit(metadata(**changes), "tensorrt", PLAN, host)


def test_metadata_are_read_back_as_they_were_written() -> None:
    written = metadata(
        **options(hardware=HardwareCompatibility.AMPERE_PLUS, workspace_bytes=1 << 30)
    )
    assert parse_metadata(dump_metadata(written)) == written


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", dump_metadata(metadata()).replace(b'"version": 1', b'"version": 9')]
)
def test_bytes_that_are_no_metadata_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput, match=r"plan\.json is not readable at"):
        parse_metadata(data)


def test_a_plan_fits_the_host_that_it_was_built_on() -> None:
    assert why() is None


def test_a_plan_of_another_target_or_with_other_bytes_does_not_fit() -> None:
    assert "built for tensorrt-rtx" in str(why(target="tensorrt-rtx"))
    assert "bytes are not those" in str(why(plan_sha256=sha256(b"other")))


@pytest.mark.parametrize("version", ["10.12.1.2", "10.13.0.35", "11.4.0.106", "10.11.0.33"])
def test_a_plan_of_another_version_does_not_fit(version: str) -> None:
    assert "built by tensorrt 10.12.0.36" in str(why(replace(HERE, version=version)))


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.13.0.35", True), ("10.11.0.33", False), ("11.4.0.106", False), ("9.3.0", False)],
)
def test_a_version_compatible_plan_fits_newer_ones_of_its_major_version(
    version: str, fits: bool
) -> None:
    assert (why(replace(HERE, version=version), **options(version_compatible=True)) is None) is fits


@pytest.mark.parametrize(
    ("hardware", "capability", "fits"),
    [
        (HardwareCompatibility.NONE, "SM89", True),
        (HardwareCompatibility.NONE, "SM90", False),
        (HardwareCompatibility.NONE, None, False),
        (HardwareCompatibility.SAME_COMPUTE_CAPABILITY, "SM89", True),
        (HardwareCompatibility.SAME_COMPUTE_CAPABILITY, "SM120", False),
        (HardwareCompatibility.AMPERE_PLUS, "SM80", True),
        (HardwareCompatibility.AMPERE_PLUS, "SM120", True),
        (HardwareCompatibility.AMPERE_PLUS, "SM75", False),
        (HardwareCompatibility.AMPERE_PLUS, None, False),
    ],
)
def test_a_plan_fits_the_devices_that_its_options_allow(
    hardware: HardwareCompatibility, capability: str | None, fits: bool
) -> None:
    assert (why(replace(HERE, capability=capability), **options(hardware=hardware)) is None) is fits


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC "
            "2024\n",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n",
            "580.65.06",
        ),
        ("something else", None),
    ],
)
def test_the_drivers_version_is_read_from_its_own_words(text: str, version: str | None) -> None:
    assert parse_driver(text) == version
