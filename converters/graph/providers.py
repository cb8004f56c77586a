"""Execution providers of ONNX Runtime: which there are, and whether a model really runs on one.

ONNX Runtime computes on the CPU whatever a provider does not take, and everything if the provider
does not start. It says so in its log at most. So a session on a provider is run once with its
profiler on, and the profile says which provider computed what.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.errors import MissingError, UsageError
from scrfdconv.converters.graph.model_file import IMAGE_RANK
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.system.scratch import scratch_folder

CPU = "CPUExecutionProvider"
PROBE_SIZE = (128, 128)  # of models of any size: whole cells at every stride up to 128
_SUFFIX = "ExecutionProvider"
# Providers with thread pools of their own, and the option that limits each pool.
_THREADS = {"OpenVINOExecutionProvider": "num_of_threads"}
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


def provider_called(name: str) -> str:
    """ONNX Runtime's name of the provider ``name``, which may lack its ending and its capitals.

    Raises UsageError where no such provider exists, MissingError where the installed ONNX Runtime
    lacks it.
    """
    import onnxruntime

    installed = onnxruntime.get_available_providers()
    known = dict.fromkeys((*installed, *onnxruntime.get_all_providers()))
    found = next((provider for provider in known if _plain(provider) == _plain(name)), None)
    if found in installed:
        return str(found)
    has = f"the installed ONNX Runtime {onnxruntime.__version__} has {_listed(installed)}"
    if found is None:
        raise UsageError(f"--provider {name}: there is no such execution provider; {has}.")
    raise MissingError(
        f"--provider {name}: {has}, and not {_short(found)}; install the onnxruntime package "
        f"that has {_short(found)} in the place of this one."
    )


def session_on(
    provider: str, model: bytes | str, options: Any, threads: int | None
) -> tuple[Any, str]:
    """A session that really computes on ``provider``, and a remark on what the CPU computes in it.

    ``options`` are onnxruntime.SessionOptions. Raises MissingError where the provider does not
    start, runs nothing, or leaves a convolution to the CPU.
    """
    import onnxruntime

    pool = {_THREADS[provider]: str(threads)} if threads and provider in _THREADS else {}
    with scratch_folder() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = onnxruntime.InferenceSession(
            model, options, providers=[(provider, pool)], enable_fallback=False
        )
        if provider not in session.get_providers():
            raise MissingError(
                f"{_short(provider)} does not start on this machine, and ONNX Runtime would "
                "compute on the CPU without a word: check its libraries, driver and device."
            )
        session.run(None, {each.name: _probe(each) for each in session.get_inputs()})
        return session, _remark(provider, Path(session.end_profiling()))


def _probe(declared: Any) -> np.ndarray:
    last = len(declared.shape) == IMAGE_RANK and declared.shape[-1] == CHANNELS  # NHWC
    free = (1, *PROBE_SIZE, CHANNELS) if last else (1, CHANNELS, *PROBE_SIZE)
    fixed = [d if isinstance(d, int) and d > 0 else None for d in declared.shape]
    shape = [d or free[axis] if axis < len(free) else d or 1 for axis, d in enumerate(fixed)]
    return np.zeros(shape, TYPES.get(declared.type, np.float32))


def _remark(provider: str, profile: Path) -> str:
    """What the CPU computed; raises MissingError if that is the work itself."""
    ran = Counter(
        (event["args"]["provider"], _is_convolution(event["args"].get("op_name", "")))
        for event in json.loads(profile.read_text("utf-8"))
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    )
    theirs = sum(count for (where, _), count in ran.items() if where == provider)
    on_cpu = ran[CPU, True]
    if not theirs or on_cpu:
        what = f"{on_cpu} convolutions" if theirs else "the whole model"
        raise MissingError(
            f"{_short(provider)} leaves {what} to the CPU on this machine: the time and the "
            "numbers would be the CPU's; leave --provider out, or choose another one."
        )
    rest = ran[CPU, False]
    return f"{rest} of {theirs + rest} nodes, none a convolution, ran on the CPU" if rest else ""


def _is_convolution(op_type: str) -> bool:
    return "Conv" in op_type  # FusedConv and QLinearConv, too


def _plain(name: str) -> str:
    return name.lower().removesuffix(_SUFFIX.lower())


def _short(provider: str) -> str:
    return provider.removesuffix(_SUFFIX)


def _listed(providers: Iterable[str]) -> str:
    return ", ".join(map(_short, providers))
