"""An opened engine: tensors by name, memory and stream from torch, errors of TensorRT raised.

pycuda is not used: with a second CUDA context beside torch's, engines run fast and return zeros
(NVIDIA/TensorRT#4427). For the same reason, scores that are all zero are an error here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats.tensorrt.api import (
    TENSORRT,
    Package,
    log,
    require_gpu,
    take_errors,
    tensorrt,
)
from scrfdconv.converters.formats.tensorrt.inspect import EngineLayers, engine_layers
from scrfdconv.converters.formats.tensorrt.profile import Free, Profile, Shape, nchw
from scrfdconv.converters.formats.tensorrt.sidecar import Sidecar, read_sidecar
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import OUTPUT_KINDS, SIZE_MULTIPLE
from scrfdconv.converters.runner import (
    Interface,
    Runner,
    canonical_outputs,
    is_output_name,
)
from scrfdconv.converters.system.permissions import OPTION, host_code_allowed

DEVICE = "cuda"  # torch's current device; tests put "cpu" here
IMAGE_RANK = 4
_WIDTHS = {1: "score", 4: "bbox", 10: "kps"}  # values per anchor -> what they are


@dataclass(frozen=True)
class EngineInterface(Interface):
    """An interface whose free axes are bounded by profiles."""

    profiles: tuple[Profile, ...] = ()

    @property
    def measured_at(self) -> tuple[Shape, ...]:
        """Every profile's preferred, smallest and largest shape."""
        return tuple(dict.fromkeys(s for profile in self.profiles for s in profile.shapes))

    def accepts(self, batch: int, height: int, width: int) -> bool:
        """True if a profile takes images of this shape."""
        if not super().accepts(batch, height, width):
            return False
        shape = (batch, height, width)
        return not self.profiles or any(profile.accepts(shape) for profile in self.profiles)


class TensorRTRunner(Runner):
    """An engine on torch's current GPU."""

    interface: EngineInterface

    def __init__(self, path: Path, package: Package = TENSORRT) -> None:
        self._path, self._package = readable(path), package
        sidecar = read_sidecar(path)
        if sidecar:
            sidecar.require_engine(path)
        self._trt, gpu = tensorrt(package), require_gpu()
        if sidecar:
            sidecar.require_compatible(self._trt.__version__, gpu)
        self._open(sidecar)
        self._input = self._only_input()
        self._size = self._fixed_size()
        self._profiles = () if None not in self._size else self._engine_profiles()
        self._names = dict(sidecar.outputs) if sidecar else self._foreign_outputs()
        self._require_outputs()
        self.sidecar = sidecar
        metadata = dict(sidecar.metadata) if sidecar else {}
        # The precision of a foreign engine is the one that its layers show.
        metadata["precision"] = sidecar.precision if sidecar else self.layers.precision or "fp32"
        super().__init__(self._interface(metadata), metadata)

    @property
    def layers(self) -> EngineLayers:
        """What the engine says of its layers."""
        return engine_layers(self._engine, self._trt)

    # ------------------------------------------------------------ opening

    def _open(self, sidecar: Sidecar | None) -> None:
        import torch

        if sidecar and sidecar.options.get("strip_plan"):
            raise ArtifactError(
                f"{self._path}: is a stripped plan: it has no weights and cannot run before it "
                "was refitted."
            )
        # Torch comes first: TensorRT then works in torch's CUDA context and makes no second one.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        take_errors(self._package)
        self._runtime = self._trt.Runtime(log(self._package))
        if host_code_allowed():
            self._runtime.engine_host_code_allowed = True
        elif sidecar and sidecar.options.get("version_compatible"):
            raise UsageError(
                f"{self._path}: is a version compatible engine, which carries the runtime of the "
                f"TensorRT that built it, as code that would run here; give {OPTION} if you trust "
                "whoever built it."
            )
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise ArtifactError(f"{self._path}: TensorRT cannot load it{self._said()}.")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ArtifactError(
                f"{self._path}: the GPU has no room to run this engine{self._said()}; free "
                "memory, or build with smaller --max."
            )
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._profile = 0  # the profile of a new context

    def _said(self) -> str:
        errors = [error.rstrip(".") for error in take_errors(self._package)]
        return f": {'; '.join(errors)}" if errors else ""

    def _tensors(self, mode: Any) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [name for name in names if engine.get_tensor_mode(name) == mode]

    def _only_input(self) -> str:
        names = self._tensors(self._trt.TensorIOMode.INPUT)
        ranks = [len(self._engine.get_tensor_shape(name)) for name in names]
        if ranks != [IMAGE_RANK]:
            raise ArtifactError(
                f"{self._path}: is not an SCRFD: expected one image input (N, 3, H, W), it has "
                f"{', '.join(names) or 'none'}."
            )
        return names[0]

    def _require_outputs(self) -> None:
        have = set(self._tensors(self._trt.TensorIOMode.OUTPUT))
        if have != set(self._names):
            raise ArtifactError(
                f"{self._path}: its outputs are not those that the sidecar names: "
                f"{', '.join(sorted(have ^ set(self._names)))}."
            )

    def _foreign_outputs(self) -> dict[str, str]:
        """Canonical names for an engine without a sidecar.

        TensorRT keeps names but no order: our names and upstream's say which output is which; else
        the shapes do.
        """
        names = self._tensors(self._trt.TensorIOMode.OUTPUT)
        if names and all(is_output_name(name) for name in names):
            return {name: name for name in sorted(names, key=_rank)}
        ordered = self._ordered_by_shape(names)
        return dict(zip(ordered, canonical_outputs(ordered, self._path), strict=True))

    def _ordered_by_shape(self, names: Sequence[str]) -> list[str]:
        if self._profiles:
            self._set_shape(nchw(self._profiles[0].opt))
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        strangers = [name for name in names if shapes[name][-1:] not in {(w,) for w in _WIDTHS}]
        if strangers:
            raise ArtifactError(
                f"{self._path}: is not an SCRFD: output {strangers[0]} has the shape "
                f"{list(shapes[strangers[0]])}, expected 1, 4 or 10 values per anchor."
            )
        kinds = list(_WIDTHS)
        return sorted(names, key=lambda n: (kinds.index(shapes[n][-1]), -shapes[n][-2]))

    def _fixed_size(self) -> Free:
        batch, _, height, width = self._engine.get_tensor_shape(self._input)
        return (_or_none(batch), _or_none(height), _or_none(width))

    def _engine_profiles(self) -> tuple[Profile, ...]:
        found = []
        for index in range(self._engine.num_optimization_profiles):
            shapes = self._engine.get_tensor_profile_shape(self._input, index)
            low, best, high = ((s[0], s[2], s[3]) for s in (tuple(shape) for shape in shapes))
            found.append(Profile(low, best, high))
        return tuple(found)

    def _interface(self, metadata: dict[str, str]) -> EngineInterface:
        batch, height, width = self._size
        a = architecture_from_metadata(metadata)
        return EngineInterface(
            tuple(self._names.values()),
            batch,
            height,
            width,
            size_multiple=a.size_multiple if a else SIZE_MULTIPLE,
            profiles=self._profiles,
        )

    # ------------------------------------------------------------ running

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        take_errors(self._package)
        with torch.cuda.stream(self._stream):  # so that copies and the engine keep their order
            self._set_shape(images.shape)
            context = self._context
            given = torch.tensor(images, dtype=self._dtype(self._input)).to(DEVICE)
            buffers = {self._input: given.contiguous()}
            for name in self._names:
                # Not earlier: output shapes follow from the input's shape.
                shape = tuple(context.get_tensor_shape(name))
                buffers[name] = torch.empty(shape, dtype=self._dtype(name), device=DEVICE)
            for name, buffer in buffers.items():
                if not context.set_tensor_address(name, buffer.data_ptr()):
                    raise ArtifactError(f"{self._path}: refuses memory for {name}{self._said()}.")
            done = context.execute_async_v3(self._stream.cuda_stream)
            self._stream.synchronize()
        errors = self._said()
        if not done or errors:
            raise ArtifactError(
                f"{self._path.name}: fails on images of shape {images.shape}{errors}."
            )
        outputs = {name: buffers[name].float().cpu().numpy() for name in self._names}
        self._require_life(outputs)
        return list(outputs.values())

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        """Choose a profile and tell the context the input's shape."""
        profiles = self._profiles
        wanted: Shape = (shape[0], shape[2], shape[3])
        fitting = [i for i, profile in enumerate(profiles) if profile.accepts(wanted)]
        if profiles and not fitting:
            raise ArtifactError(
                f"{self._path.name}: no profile takes images of shape {tuple(shape)}; it has "
                f"{', '.join(map(str, profiles))} (NxHxW)."
            )
        context = self._context
        if fitting and self._profile not in fitting:
            if not context.set_optimization_profile_async(fitting[0], self._stream.cuda_stream):
                raise ArtifactError(f"{self._path.name}: profile {fitting[0]} fails{self._said()}.")
            self._stream.synchronize()  # the change must be over before shapes are set
            self._profile = fitting[0]
        accepted = context.set_input_shape(self._input, tuple(shape))
        unknown = context.infer_shapes() if accepted else [self._input]
        if unknown:
            raise ArtifactError(
                f"{self._path.name}: refuses images of shape {tuple(shape)}{self._said()}."
            )

    def _dtype(self, name: str) -> Any:
        import torch

        dtypes = self._trt.DataType
        types = {dtypes.FLOAT: torch.float32, dtypes.HALF: torch.float16}
        kind = self._engine.get_tensor_dtype(name)
        if kind not in types:
            raise ArtifactError(f"{self._path}: {name} is {kind}, expected float32 or float16.")
        return types[kind]

    def _require_life(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Scores come from a sigmoid: all of them zero means that nothing was computed."""
        scores = [
            outputs[own] for own, name in self._names.items() if name.startswith(OUTPUT_KINDS[0])
        ]
        if scores and not any(score.any() for score in scores):
            raise ArtifactError(
                f"{self._path.name}: every score is exactly 0: the engine computes nothing, most "
                "likely because another CUDA context (pycuda, another runtime) is in this process."
            )


def _or_none(size: int) -> int | None:
    """``size``, or None for -1, which TensorRT writes for a free axis."""
    return size if size > 0 else None


def _rank(name: str) -> tuple[int, int]:
    """Place in the canonical order: scores, boxes, keypoints, each by stride."""
    kind, _, stride = name.partition("_")
    return OUTPUT_KINDS.index(kind), int(stride)
