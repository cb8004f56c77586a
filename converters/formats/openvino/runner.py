"""An OpenVINO model on the CPU, in float32 or in the arithmetic that the library chooses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.openvino.api import (
    choosers,
    core,
    last_sentence,
    name_of,
    own_metadata_of,
    read_model,
    set_number,
)
from scrfdconv.converters.formats.openvino.reading import stored_precision
from scrfdconv.converters.graph.interface.kinds import THRESHOLD_PLACE, output_kind, without_rows
from scrfdconv.converters.graph.model_file import IMAGE_RANK
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import CHANNELS, SIZE_MULTIPLE
from scrfdconv.converters.network.preprocessing import form_in
from scrfdconv.converters.runner import (
    Interface,
    Outputs,
    Runner,
    canonical_outputs,
    thread_limit,
)

_FLOAT = "f32"
_TYPES = {"float": _FLOAT, "uint8": "u8"}  # of inputs
_READABLE = {"f32": "fp32", "f16": "fp16"}  # bf16 keeps its name


class OpenVinoRunner(Runner):
    """A model in OpenVINO on the CPU.

    Float models compute in float32; with ``by_default``, in the arithmetic that the library chooses
    on this machine. The float layers of INT8 models always use the library's choice: 8 bits are
    coarser anyway. ``threshold`` replaces that of a file that ends with faces.
    """

    arithmetic_setting = "INFERENCE_PRECISION_HINT"

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        *,
        by_default: bool | None = None,
        threshold: float | None = None,
    ) -> None:
        self._path, self._threads = path, threads or thread_limit()
        self._model = read_model(path)
        self._by_default = self.precision == "int8" if by_default is None else by_default
        metadata = own_metadata_of(self._model)
        self.face_names = self._faces_first(metadata)
        if threshold is not None:
            for node in choosers(self._model):
                set_number(node, THRESHOLD_PLACE, threshold)
        names = [name_of(port) for port in self._model.outputs[len(self.face_names) :]]
        self._form = form_in(metadata)
        self._input = self._image_input()
        super().__init__(self._interface(canonical_outputs(names, path), metadata), metadata)
        self._request = self._compiled.create_infer_request()

    def _faces_first(self, metadata: dict[str, str]) -> tuple[str, ...]:
        """The outputs of a file that ends with faces; its rows become outputs behind them."""
        if output_kind(metadata) != "faces":
            return ()
        names = tuple(name_of(port) for port in self._model.outputs)
        a = architecture_from_metadata(metadata)
        try:
            self._model.add_outputs(list(a.output_names) if a else [])
        except RuntimeError as error:  # there is no tensor of such a name
            raise without_rows(str(self._path)) from error
        if a is None or not choosers(self._model):
            raise without_rows(str(self._path))
        return names

    def faces_and_rows(
        self, images: np.ndarray, threshold: float | None = None
    ) -> tuple[Outputs, Outputs]:
        """See `Runner.faces_and_rows`."""
        other = self
        if threshold is not None:
            other = OpenVinoRunner(
                self._path, self._threads, by_default=self._by_default, threshold=threshold
            )
        values = other._inferred(self.interface.fed(images))
        names, faces = (*self.face_names, *self.interface.outputs), len(self.face_names)
        pairs = list(zip(names, values, strict=True))
        return dict(pairs[:faces]), dict(pairs[faces:])

    def own_outputs(self, images: np.ndarray) -> Outputs:
        """All outputs that the file declares."""
        if self.face_names:
            return self.faces_and_rows(images)[0]
        return super().own_outputs(images)

    @cached_property
    def precision(self) -> str:
        """The coarsest numbers in the graph, whatever its metadata claim."""
        return stored_precision(self._model)

    @cached_property
    def computes_in(self) -> str:
        """The arithmetic of the layers that are not quantized: fp32, bf16 or fp16."""
        kind = str(self._compiled.get_property(self.arithmetic_setting).get_type_name())
        return _READABLE.get(kind, kind)

    def twin(self) -> OpenVinoRunner | None:
        """The same file in the other arithmetic: the library's choice, or float32."""
        other = OpenVinoRunner(self._path, self._threads, by_default=not self._by_default)
        return None if other.computes_in == self.computes_in else other

    def _image_input(self) -> Any:
        inputs = self._model.inputs
        ranks = [port.partial_shape.rank.get_length() for port in inputs]
        types = [port.element_type.get_type_name() for port in inputs]
        expected = _TYPES[self._form.type]
        if ranks != [IMAGE_RANK] or types != [expected]:
            shown = ", ".join(f"{t} of rank {r}" for t, r in zip(types, ranks, strict=True))
            raise ArtifactError(
                f"{self._path}: is not an SCRFD: expected one {expected} image of rank "
                f"{IMAGE_RANK}, its inputs are {shown or 'none'}."
            )
        return inputs[0]

    def _interface(self, names: tuple[str, ...], metadata: dict[str, str]) -> Interface:
        batch, channels, height, width = self._form.sizes(
            tuple(d.get_length() if d.is_static else None for d in self._input.partial_shape)
        )
        if channels not in (CHANNELS, None):
            raise ArtifactError(
                f"{self._path}: is not an SCRFD: its input has {channels} channels."
            )
        a = architecture_from_metadata(metadata)
        multiple = a.size_multiple if a else SIZE_MULTIPLE
        return Interface(names, batch, height, width, size_multiple=multiple, form=self._form)

    @cached_property
    def _compiled(self) -> Any:
        return self._compile(self._model)

    def _compile(self, model: Any) -> Any:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if not self._by_default:
            settings[self.arithmetic_setting] = _FLOAT
        if self._threads:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        try:
            return core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ArtifactError(
                f"{self._path}: OpenVINO cannot compile it: {last_sentence(error)}."
            ) from error

    @property
    def model(self) -> Any:
        """The graph, whose outputs are faces, if the file has some, and then the rows."""
        return self._model

    def fed(self, images: np.ndarray) -> np.ndarray:
        """Images of the network in the form that the file takes."""
        return self.interface.fed(images)

    def values_of(self, model: Any, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All outputs of ``model``, which was made of this one, in this one's arithmetic."""
        return self._outputs_of(self._compile(model).create_infer_request(), feeds)

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        rows = self._inferred(images)[len(self.face_names) :]
        return [value.astype(np.float32, copy=False) for value in rows]

    def _inferred(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """All outputs in the order of the model."""
        return self._outputs_of(self._request, [images])

    def _outputs_of(self, request: Any, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            request.infer(list(feeds))
            # Tensors are buffers of the request: the next run writes into them.
            return [np.array(tensor.data) for tensor in request.output_tensors]
        except RuntimeError as error:
            raise ArtifactError(
                f"{self._path.name}: fails on images of shape {feeds[0].shape}: "
                f"{last_sentence(error)}."
            ) from error
