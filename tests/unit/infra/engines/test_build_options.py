"""Options and timing caches, on a real builder's config: TensorRT-RTX's, without a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.engine_options.building import BuildOptions, HardwareCompatibility, apply
from infra.engines.nvidia.host import Host
from infra.engines.nvidia.logger import Log, collector
from infra.engines.nvidia.timing_cache import attach, cache_key
from infra.errors import BadInput, Unavailable
from infra.settings import read_settings
from infra.stores import ObjectStore, open_store

trt: Any = pytest.importorskip("tensorrt_rtx")
HERE = Host("tensorrt", "11.4.0.106", "SM89", "NVIDIA L4 (24 GB)", "580.65.06", "13.0")
KEY = cache_key(HERE)


class Opened:
    """A builder's config, which must not outlive its builder, and what the module says."""

    def __init__(self) -> None:
        self.log = Log()
        self._builder = trt.Builder(collector(trt, self.log))
        self.config = self._builder.create_builder_config()


@pytest.fixture
def opened() -> Opened:
    return Opened()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path))


def test_every_option_reaches_the_builder(opened: Opened) -> None:
    apply(BuildOptions(True, HardwareCompatibility.NONE, 4, 1 << 28, 0), trt, opened.config)
    assert opened.config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert opened.config.builder_optimization_level == 4
    assert opened.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 28
    assert opened.config.max_aux_streams == 0


def test_no_option_leaves_the_builder_as_it_is(opened: Opened) -> None:
    before = (
        opened.config.flags,
        opened.config.builder_optimization_level,
        opened.config.max_aux_streams,
    )
    apply(BuildOptions(), trt, opened.config)
    assert (
        opened.config.flags,
        opened.config.builder_optimization_level,
        opened.config.max_aux_streams,
    ) == before


@pytest.mark.parametrize(
    "level", [HardwareCompatibility.AMPERE_PLUS, HardwareCompatibility.SAME_COMPUTE_CAPABILITY]
)
def test_every_hardware_level_is_one_that_the_module_knows(
    opened: Opened, level: HardwareCompatibility
) -> None:
    assert level.name in trt.HardwareCompatibilityLevel.__members__
    apply(BuildOptions(hardware=level), trt, opened.config)


def test_a_level_that_an_older_module_does_not_know_is_unavailable(opened: Opened) -> None:
    class Older:
        __name__, __version__ = "tensorrt", "10.0.1"

        class HardwareCompatibilityLevel:
            pass

    with pytest.raises(
        Unavailable, match=r"tensorrt 10\.0\.1 knows no hardware compatibility called same-compute"
    ):
        apply(
            BuildOptions(hardware=HardwareCompatibility.SAME_COMPUTE_CAPABILITY),
            Older(),
            opened.config,
        )


def test_the_environment_decides_how_engines_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().tensorrt_options() == BuildOptions()
    monkeypatch.setenv("REQUANT_TENSORRT_VERSION_COMPATIBLE", "true")
    monkeypatch.setenv("REQUANT_TENSORRT_HARDWARE_COMPATIBILITY", "ampere-plus")
    monkeypatch.setenv("REQUANT_TENSORRT_OPTIMIZATION_LEVEL", "5")
    monkeypatch.setenv("REQUANT_TENSORRT_WORKSPACE_MIB", "512")
    monkeypatch.setenv("REQUANT_TENSORRT_MAX_AUX_STREAMS", "1")
    wanted = BuildOptions(True, HardwareCompatibility.AMPERE_PLUS, 5, 512 * 2**20, 1)
    assert read_settings().tensorrt_options() == wanted
    monkeypatch.setenv("REQUANT_TENSORRT_OPTIMIZATION_LEVEL", "6")
    with pytest.raises(BadInput, match="REQUANT_TENSORRT_OPTIMIZATION_LEVEL is '6'"):
        read_settings()


def test_a_cache_is_known_by_version_device_and_driver() -> None:
    assert KEY == "timing-caches/tensorrt-11.4.0.106/SM89-NVIDIA_L4_24_GB_/driver-580.65.06"


def test_a_cache_that_a_build_changed_is_kept_and_taken_by_the_next(
    opened: Opened, store: ObjectStore
) -> None:
    first = attach(opened.config, store, KEY, opened.log.cache_complaints)
    assert (first.before, first.diagnostics) == (b"", ())
    first.keep(opened.config)
    kept = store.get(KEY)
    again = Opened()
    second = attach(again.config, store, KEY, again.log.cache_complaints)
    assert kept.endswith(second.before)
    assert again.config.get_timing_cache() is not None


def test_a_cache_that_no_build_changed_is_not_written_again(
    opened: Opened, store: ObjectStore
) -> None:
    first = attach(opened.config, store, KEY, opened.log.cache_complaints)
    unchanged = bytes(opened.config.get_timing_cache().serialize())
    type(first)(store, KEY, unchanged, ()).keep(opened.config)
    assert not store.exists(KEY)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"x" + data, lambda data: b"", lambda _: b"no"]
)
def test_a_damaged_cache_is_ignored_with_a_remark(
    opened: Opened, store: ObjectStore, damage: Any
) -> None:
    attach(opened.config, store, KEY, opened.log.cache_complaints).keep(opened.config)
    store.put(KEY, damage(store.get(KEY)))
    again = Opened()
    found = attach(again.config, store, KEY, again.log.cache_complaints)
    assert found.before == b""
    assert found.diagnostics == (f"the timing cache {KEY} is damaged and was ignored",)
    assert again.config.get_timing_cache() is not None


def test_a_cache_that_the_module_does_not_take_is_ignored_with_a_remark(
    opened: Opened, store: ObjectStore
) -> None:
    class Foreign:
        """A config whose module finds the cache to be another device's."""

        def __init__(self, config: Any) -> None:
            self._config = config
            self.taken: list[bytes] = []

        def create_timing_cache(self, data: bytes) -> Any:
            self.taken.append(data)
            return self._config.create_timing_cache(b"")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return self.taken[-1] == b"" and self._config.set_timing_cache(cache, ignore_mismatch)

    attach(opened.config, store, KEY, []).keep(opened.config)
    again = Opened()
    found = attach(Foreign(again.config), store, KEY, [])
    assert found.before == b""
    assert "was not taken: it is of another device or version" in found.diagnostics[0]
    assert again.config.get_timing_cache() is not None
