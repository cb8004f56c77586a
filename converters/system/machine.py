"""What this machine is, and what a process may use: processor, cores, memory.

What a system does not tell is None, never a guess. Only Linux tells the features of a processor
and the limits of a container.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_CONTROL_GROUPS = Path("/proc/self/cgroup")
_X86 = ("x86_64", "AMD64", "i686", "x86")

# Flags of /proc/cpuinfo that decide what INT8 and BF16 gain; any one of a row is enough.
FEATURES: Mapping[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"),
    "DOTPROD": ("asimddp",),
    "BF16": ("avx512_bf16", "amx_bf16", "bf16"),
    "AMX INT8": ("amx_int8",),
    "I8MM": ("i8mm",),
}
# A limit of this size or more is none: groups of version 1 write the largest whole number of pages.
_NO_LIMIT = 1 << 60  # bytes


# ---------------------------------------------------------------- processor


def cpu_name() -> str:
    """The processor as its maker calls it."""
    names = [value for key, value in _cpu_info() if key == "model name"]
    return next(iter(names), "") or platform.processor() or platform.machine()


def processor_features() -> dict[str, bool | None]:
    """Whether the processor has each of `FEATURES`; None where the system does not tell."""
    flags = {
        flag
        for key, value in _cpu_info()
        if key in ("flags", "Features")  # as x86-64 and ARM call them
        for flag in value.split()
    }
    return {
        name: any(flag in flags for flag in wanted) if flags else None
        for name, wanted in FEATURES.items()
    }


def adds_bytes_without_saturation() -> bool | None:
    """Whether sums of 8-bit products are exact here; None where that is not known.

    x86 processors without VNNI saturate at 16 bits on the way. No other processor does.
    """
    return processor_features()["VNNI"] if platform.machine() in _X86 else True


def has_byte_dot_product() -> bool | None:
    """Whether the processor has instructions that make INT8 fast; None where it is not known."""
    found = processor_features()
    wanted = [found["VNNI"], found["DOTPROD"]]
    return None if None in wanted else any(wanted)


def usable_cores() -> int:
    """Processors that this process may use, by its affinity and by the quota of its container."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def _cpu_info() -> Iterator[tuple[str, str]]:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            yield key.strip(), value.strip()


# ---------------------------------------------------------------- memory


def memory_limit() -> int | None:
    """Bytes that the container or the service of this process may use at most; None: no limit."""
    return min((limit for limit, _ in _memory_groups()), default=None)


def available_memory() -> int:
    """Bytes that this process can still take, within the machine and within its limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(limit - used for limit, used in _memory_groups())]))


def _memory_groups() -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of every group around this process that has a limit."""
    for group in _groups("memory", version=2):
        yield from _limited(group, "memory.max", "memory.current", "inactive_file")
    for group in _groups("memory", version=1):
        yield from _limited(
            group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        )


def _limited(group: Path, limit: str, use: str, cache: str) -> Iterator[tuple[int, int]]:
    most, used = _number(group / limit), _number(group / use)
    if most is not None and most < _NO_LIMIT:
        # The system drops cached files before it kills a process, so they do not count.
        yield most, max(0, (used or 0) - _statistic(group / "memory.stat", cache))


def _statistic(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


# ---------------------------------------------------------------- control groups


def _groups(controller: str, *, version: int) -> Iterator[Path]:
    """Folders of the control groups around this process, from the innermost outwards.

    In a container, the innermost group may be mounted as the root: folders that do not exist are
    left out.
    """
    for line in _text(OWN_CONTROL_GROUPS).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if version == 2 and (number, controllers) == ("0", ""):  # noqa: PLR2004 - cgroup v2
            root = CONTROL_GROUPS
        elif version == 1 and controller in controllers.split(","):
            root = CONTROL_GROUPS / controllers
        else:
            continue
        own = root / name.lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _quotas() -> Iterator[float]:
    """Processors, as shares of time, that the groups around this process may use."""
    for group in _groups("cpu", version=2):
        quota, _, period = _text(group / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
    for group in _groups("cpu", version=1):
        share, length = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if share and length:  # -1 stands for no quota
            yield share / length


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:  # another system, or a controller that is not there
        return ""
