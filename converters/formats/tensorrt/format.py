"""TensorRT engines, for 10.3 and later and 11 alike: built from ONNX, which decides the precision.

The parts: ``tensorrt_plan`` (what), ``tensorrt_build`` (how), ``tensorrt_sidecar`` (what is known
of it), ``tensorrt_runner`` (running it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from scrfdconv.converters.artifact import Artifact, replacing
from scrfdconv.converters.errors import MissingError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.formats.tensorrt.plan import (
    EnginePlan,
    TensorRTOptions,
    facts_of,
    plan_for,
)
from scrfdconv.converters.runner import Runner


class TensorRT(Format):
    """A serialized engine, with a sidecar FILE.engine.json."""

    name = "tensorrt"
    suffix = ".engine"
    sources = ("onnx", "onnx_fp16", "onnx_int8")
    options = TensorRTOptions

    def build(self, source: Source, options: TensorRTOptions) -> bytes:
        """Build on this machine's GPU, for this machine's GPU."""
        from scrfdconv.converters.formats.tensorrt.build import engine_from_onnx

        assert isinstance(source, Artifact)
        return engine_from_onnx(source.path.read_bytes(), engine_plan(source, options))

    @contextmanager
    def companions(
        self, source: Source, part: Path, out: Path, options: TensorRTOptions
    ) -> Iterator[None]:
        """The sidecar: there while the engine is verified, and named right before it.

        A crash between the two renames leaves a pair that does not match; opening it says so.
        """
        from scrfdconv.converters.formats.tensorrt.api import require_gpu, tensorrt
        from scrfdconv.converters.formats.tensorrt.sidecar import Sidecar, sidecar_path

        assert isinstance(source, Artifact)
        version, gpu = tensorrt().__version__, require_gpu()
        with replacing(sidecar_path(out)) as beside:
            sidecar = Sidecar.of(engine_plan(source, options), part, version, gpu)
            beside.write_text(sidecar.to_json(), encoding="utf-8")
            assert beside == sidecar_path(part)
            yield

    def precision(self, options: TensorRTOptions) -> str:
        """That of the ONNX; tf32 for float32 with TF32 convolutions."""
        return options.label

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open ours (refused early on another version or GPU) or a foreign engine."""
        from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner

        return TensorRTRunner(path)


def engine_plan(source: Artifact, options: TensorRTOptions) -> EnginePlan:
    """What ``options`` build from an ONNX file.

    Default profiles keep to the memory of this machine, if it has a GPU.
    """
    return _plan(source.path, source.digest, options)


@lru_cache(maxsize=16)  # one answer per build: free memory changes from one moment to the next
def _plan(path: Path, digest: str, options: TensorRTOptions) -> EnginePlan:
    from scrfdconv.converters.graph.model_file import load_onnx

    return plan_for(facts_of(load_onnx(path), path), digest, options, _free_memory())


def _free_memory() -> int | None:
    """Of the GPU or of the host, where verification runs the same shapes; None without a GPU."""
    import psutil

    from scrfdconv.converters.formats.tensorrt.api import require_gpu

    try:
        free = require_gpu().free_memory
    except MissingError:
        return None  # a plan for another machine
    return min(free, int(psutil.virtual_memory().available))
