"""An ONNX model, opened with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError, ScrfdconvError, reason_of
from scrfdconv.converters.graph.inference import SILENT
from scrfdconv.converters.graph.interface.faces import with_raw_outputs
from scrfdconv.converters.graph.interface.forms import form_of
from scrfdconv.converters.graph.interface.kinds import output_kind
from scrfdconv.converters.graph.interface.preamble import preamble_of
from scrfdconv.converters.graph.model_file import IMAGE_RANK, load_onnx
from scrfdconv.converters.graph.number_types import (
    coarsest,
    live_nodes,
    output_precisions,
    precisions_in,
)
from scrfdconv.converters.graph.providers import CPU, PROBE_SIZE, TYPES, session_on
from scrfdconv.converters.input_form import PLAIN, InputForm
from scrfdconv.converters.metadata import architecture_from_metadata, own_metadata
from scrfdconv.converters.network.architecture import CHANNELS, SIZE_MULTIPLE
from scrfdconv.converters.outputs import (
    Naming,
    named_by_name,
    named_by_position,
    named_by_shape,
    require_rows,
)
from scrfdconv.converters.runner import Interface, Outputs, Runner, thread_limit

if TYPE_CHECKING:
    import onnx

_MATRIX = 2  # rank of outputs without a batch axis


class OnnxRunner(Runner):
    """A model in ONNX Runtime, on the CPU or on another execution provider.

    Raises ArtifactError for a graph that is no SCRFD; `graph.function` runs any graph.
    """

    def __init__(self, path: Path, threads: int | None = None, *, provider: str = CPU) -> None:
        self.path = path
        self._open = partial(session_of, path, threads, provider)
        self._session, placed = self._open()
        self._metadata = own_metadata(interface_of(self._session, path)[2])
        self._declared = tuple(o.name for o in self._session.get_outputs())
        self.face_names = self._faces_first()
        inputs, named, _ = interface_of(self._session, path)
        outputs = [o for o in named if o.name not in self.face_names]
        if len(inputs) != 1 or len(inputs[0].shape) != IMAGE_RANK:
            raise ArtifactError(f"{path}: is not an SCRFD: expected one image input (N, 3, H, W).")
        self._input = inputs[0]
        self._form, prepares = _form_of(path)
        self.output_names = tuple(output.name for output in outputs)
        metadata = self._metadata
        batch, channels, height, width = self._size = self._form.sizes(
            tuple(d if isinstance(d, int) and d > 0 else None for d in self._input.shape)
        )
        if channels not in (CHANNELS, None):
            raise ArtifactError(f"{path}: is not an SCRFD: its input has {channels} channels.")
        a = architecture_from_metadata(metadata)
        naming = self._naming([output.shape for output in outputs])
        own = list(zip(self.output_names, naming.names, strict=True))
        extras = tuple(name for name, canonical in own if canonical is None)
        self.output_names = tuple(name for name, canonical in own if canonical)
        super().__init__(
            Interface(
                naming.canonical,
                batch,
                height,
                width,
                channels=channels or CHANNELS,
                extras=extras,
                size_multiple=a.size_multiple if a else SIZE_MULTIPLE,
                form=self._form,
            ),
            metadata,
        )
        remarks = [naming.remark, prepares, placed]
        self.remark = "; ".join(filter(None, remarks))

    def _faces_first(self) -> tuple[str, ...]:
        """The outputs of a file that ends with faces; its session gets the raw ones, too."""
        if output_kind(self._metadata) != "faces":
            return ()
        names = tuple(output.name for output in self._session.get_outputs())
        self._session = self._session_with_rows(None)
        return names

    def _session_with_rows(self, threshold: float | None) -> Any:
        return self._open(self._with_rows(threshold).SerializeToString())[0]

    def _with_rows(self, threshold: float | None = None) -> onnx.ModelProto:
        a = architecture_from_metadata(self._metadata)
        if a is None:
            raise ArtifactError(f"{self.path}: its faces have no architecture; convert it again.")
        return with_raw_outputs(load_onnx(self.path), a, threshold)

    def faces_and_rows(
        self, images: np.ndarray, threshold: float | None = None
    ) -> tuple[Outputs, Outputs]:
        """See `Runner.faces_and_rows`."""
        session = self._session if threshold is None else self._session_with_rows(threshold)
        names = (*self.face_names, *self.output_names)
        values = dict(zip(names, session.run(names, self.fed(images)), strict=True))
        return (
            {name: values[name] for name in self.face_names},
            {name: values[name] for name in self.output_names},
        )

    def own_outputs(self, images: np.ndarray) -> Outputs:
        """All outputs that the file declares, faces included, in its order."""
        values = self._values(self._declared, self.interface.fed(images))
        return {n: np.asarray(value) for n, value in zip(self._declared, values, strict=True)}

    def _naming(self, declared: Sequence[Sequence[Any]]) -> Naming:
        """Which output is which: by our names, else by shapes, else by position.

        Files of a fixed size declare shapes; where those make no sense (released models declare
        the shapes of another size) or the size is free, a run tells.
        """
        by_name = named_by_name(self.output_names)
        if by_name:
            return by_name
        batch, _, height, width = self._size
        size = (height or PROBE_SIZE[0], width or PROBE_SIZE[1])
        if height and width and all(isinstance(d, int) for shape in declared for d in shape):
            found = named_by_shape([_of_one(tuple(shape), batch or 1) for shape in declared], size)
            if found and None not in found.names:
                return found
        try:
            image = np.zeros(self._form.dims((batch or 1, CHANNELS, *size)))
            shapes = [v.shape for v in self._run(image)]
        except ArtifactError:  # a later run of the model reports the reason
            return named_by_position(self.output_names, self.path)
        found = named_by_shape([_of_one(shape, batch or 1) for shape in shapes], size)
        if found is None:
            require_rows(self.output_names, shapes, self.path)
        return found or named_by_position(self.output_names, self.path)

    @cached_property
    def one_long_sum(self) -> bool:  # type: ignore[override]
        """True for InstanceNormalization, which ONNX Runtime makes of GroupNormalization, too."""
        norms = ("InstanceNormalization", "GroupNormalization")
        return any(node.op_type in norms for node in live_nodes(load_onnx(self.path).graph))

    @cached_property
    def precision(self) -> str:
        """What the graph computes in, not what its metadata claim: foreign files have none."""
        return coarsest(self._precisions.values())

    def precision_of(self, output: str) -> str:
        """The coarsest numbers that really reach this output."""
        return self._precisions[output]

    @cached_property
    def _precisions(self) -> dict[str, str]:
        by_own_name = (
            output_precisions(self._with_rows()) if self.face_names else precisions_in(self.path)
        )
        names = zip(self.interface.outputs, self.output_names, strict=True)
        return {canonical: by_own_name[own] for canonical, own in names}

    def fed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The network's own ``images`` as the model takes them, under the name of its input."""
        return self._typed(self.interface.fed(images))

    def _typed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        dtype = TYPES.get(self._input.type, np.float32)
        return {self._input.name: images.astype(dtype, copy=False)}

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        return self._values(self.output_names, images)

    def _values(self, names: Sequence[str], images: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return list(self._session.run(names, self._typed(images)))
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ArtifactError(
                f"{self.path.name}: fails on images of shape {images.shape}: {reason_of(error)}."
            ) from error


def _form_of(path: Path) -> tuple[InputForm, str]:
    """The form in which a file takes pictures, and what it does with them before its network."""
    model = load_onnx(path)
    form = form_of(model)
    first = ", ".join(node.op_type for node in preamble_of(model).nodes)
    return form, "" if form == PLAIN else f"its graph prepares pictures itself ({first})"


def _of_one(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The shape for one image; the rows of a matrix may be those of all images."""
    if len(shape) == _MATRIX and batch > 1:
        return (shape[0] // batch, shape[1])
    return tuple(shape)


def session_of(
    path: Path, threads: int | None, provider: str, content: bytes | None = None
) -> tuple[Any, str]:
    """The session of a file, or of ``content`` in its place, and a remark on where it computes."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    threads = threads or thread_limit()
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        model = content or str(readable(path))
        if provider != CPU:
            return session_on(provider, model, options, threads)
        return onnxruntime.InferenceSession(model, options, providers=[CPU]), ""
    except ScrfdconvError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common public base
        where = "" if provider == CPU else f" on {provider}"
        raise ArtifactError(
            f"{path}: ONNX Runtime cannot load it{where}: {reason_of(error)}."
        ) from error


def interface_of(session: Any, path: Path) -> tuple[list[Any], list[Any], dict[str, str]]:
    """Inputs, outputs and metadata; their names are texts."""
    try:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        metadata = session.get_modelmeta().custom_metadata_map
        _ = [value.name for value in (*inputs, *outputs)]  # decoded only now
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: has a name that is no text ({reason_of(error)}).") from error
    return inputs, outputs, metadata
