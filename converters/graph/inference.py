"""Running an ONNX graph on images, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError, ScrfdconvError, reason_of
from scrfdconv.converters.runner import thread_limit

if TYPE_CHECKING:
    import onnx

# Log fatal errors alone. ONNX Runtime logs names of a model's tensors raw and in colour to stderr;
# other errors are also raised.
SILENT = 4
Images = Callable[[], Iterable[np.ndarray]]  # (N, 3, H, W) float32 each, the same ones every time


def runs_of(model: onnx.ModelProto, images: Images) -> Iterator[list[Any]]:
    """The outputs of a model in memory for each of ``images``, which it gets as they are."""
    with _named_failures(model):
        session = _session(model)
        (name,) = (value.name for value in session.get_inputs())
        for batch in images():
            yield session.run(None, {name: batch})


def values_of_outputs(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every output of a model in memory by name, for inputs by name."""
    with _named_failures(model):
        names = [value.name for value in model.graph.output]
        return dict(zip(names, _session(model).run(names, dict(feeds)), strict=True))


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    # Many short runs: threads that spin between them only take time from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = thread_limit() or 0  # 0: all cores
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@contextmanager
def _named_failures(model: onnx.ModelProto) -> Iterator[None]:
    try:
        yield
    except ScrfdconvError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise ArtifactError(
            f"{model.graph.name}: ONNX Runtime fails on it: {reason_of(error)}."
        ) from error
