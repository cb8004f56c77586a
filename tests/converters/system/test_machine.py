"""What the machine is said to be; what is not known is said to be unknown."""

from __future__ import annotations

import os

import pytest

from scrfdconv.converters.system import machine

GIB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of files: call with names and contents."""
    for name, place in (
        ("CPU_INFO", "cpuinfo"), ("CONTROL_GROUPS", "groups"), ("OWN_CONTROL_GROUPS", "own")
    ):  # fmt: skip
        monkeypatch.setattr(machine, name, tmp_path / place)

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)

    return write


V2 = {"own": "0::/service/inner\n"}
V1 = {"own": "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n"}
LIMITS = {
    "none": ({}, None),
    "version 2": ({**V2, "groups/service/inner/memory.max": f"{GIB}\n"}, GIB),
    "version 2, without": ({**V2, "groups/service/inner/memory.max": "max\n"}, None),
    "an outer group's": ({**V2, "groups/service/memory.max": f"{GIB}\n"}, GIB),
    "the smallest of several": (
        {**V2, "groups/service/inner/memory.max": f"{2 * GIB}\n",
         "groups/service/memory.max": f"{GIB}\n"}, GIB,
    ),
    "version 1": ({**V1, "groups/memory/box/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
    "version 1, as a container sees it": (
        {**V1, "groups/memory/memory.limit_in_bytes": f"{GIB}\n"}, GIB,
    ),
    "version 1, without": (
        {**V1, "groups/memory/box/memory.limit_in_bytes": "9223372036854771712\n"}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "limit"), LIMITS.values(), ids=LIMITS)
def test_the_memory_limit_of_a_container_is_found(files, limit, system):
    system(files)

    assert machine.memory_limit() == limit


def test_what_is_left_of_a_limit_is_available_files_that_nobody_reads_included(system):
    inner = "groups/service/inner"
    system({
        **V2, f"{inner}/memory.max": str(1000), f"{inner}/memory.current": str(700),
        f"{inner}/memory.stat": "anon 300\ninactive_file 400\n",
    })  # fmt: skip

    assert machine.available_memory() == 700


def test_without_a_limit_the_memory_of_the_machine_is_available(system):
    assert machine.available_memory() > 1e6


@pytest.mark.parametrize(
    "files",
    [
        {**V2, "groups/service/inner/cpu.max": "50000 100000\n"},
        {**V1, "groups/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
         "groups/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n"},
    ],
)  # fmt: skip
def test_half_a_processor_is_one_worker(files, system):
    system(files)

    assert machine.usable_cores() == 1


def test_without_a_quota_the_affinity_decides(system):
    system({**V2, "groups/service/inner/cpu.max": "max 100000\n"})

    assert machine.usable_cores() == len(os.sched_getaffinity(0))


FLAGS = {
    "x86_64, VNNI": ("x86_64", "flags\t\t: fpu avx2 avx512_vnni\n", True, True),
    "x86_64, without": ("x86_64", "flags\t\t: fpu avx2\n", False, False),
    "x86_64, not told": ("x86_64", None, None, None),
    "ARM, DOTPROD": ("aarch64", "Features\t: fp asimddp\n", True, True),
    "ARM, without": ("aarch64", "Features\t: fp\n", True, False),
    "ARM, not told": ("arm64", None, True, None),
}


@pytest.mark.parametrize(("kind", "text", "exact", "fast"), FLAGS.values(), ids=FLAGS)
def test_what_bytes_gain_follows_from_the_flags_and_is_unknown_without(
    kind, text, exact, fast, system, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: kind)
    system({} if text is None else {"cpuinfo": f"model name\t: A: B\n{text}"})

    assert machine.adds_bytes_without_saturation() is exact
    assert machine.has_byte_dot_product() is fast
    assert (machine.cpu_name() == "A: B") is (text is not None)
