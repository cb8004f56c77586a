"""The shift of a convolution's mean by rounded weights, taken back in its bias.

The rounding errors of one channel's weights do not cancel out: activations behind a ReLU are all
positive, so the channel's output moves as a whole (Nagel et al., 2019, "Data-free quantization
through weight equalization and bias correction"). The shift is the summed error times the mean of
the input, so it needs nothing but the means of the calibration pictures.

Measured around faces of 440 views of 40 photographs, standard deviation of the logits' error:
2.5G_KPS 0.041 -> 0.039, 500M_KPS 0.038 -> 0.035, 500M 0.045 -> 0.036. Means that were measured on
the INT8 model itself, layer after layer, were worse (0.042 to 0.057): they fit the background.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

_LARGEST = 127  # of symmetric bytes, as the library rounds weights
_LARGEST_REDUCED = 64  # with 7-bit weights
_WITH_BIAS = 3  # inputs of a convolution

Means = Mapping[str, Sequence[float]]  # of the channels of each activation


def with_corrected_biases(
    model: onnx.ModelProto, means: Means, keep: Collection[str], *, reduce_range: bool = False
) -> onnx.ModelProto:
    """A copy whose quantized convolutions (all but ``keep``) keep the means of their outputs.

    Convolutions without a bias, or whose input was not measured, stay as they are.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    shifts: dict[str, list[np.ndarray]] = {}  # a bias that is shared over strides has several
    for node in result.graph.node:
        if node.op_type != "Conv" or node.name in keep or len(node.input) < _WITH_BIAS:
            continue
        if node.input[0] in means:
            weight = numpy_helper.to_array(tensors[node.input[1]])
            mean = np.array(means[node.input[0]], np.float64)
            error = _rounding_error(weight, _LARGEST_REDUCED if reduce_range else _LARGEST)
            shifts.setdefault(node.input[2], []).append(_shift(error, mean))
    for name, found in shifts.items():
        bias = numpy_helper.to_array(tensors[name])
        corrected = (bias - np.mean(found, axis=0)).astype(bias.dtype)
        tensors[name].CopyFrom(numpy_helper.from_array(corrected, name))
    return result


def _rounding_error(weight: np.ndarray, largest: int) -> np.ndarray:
    """Rounded minus exact weights, summed over the kernel: (out, in), in float64."""
    exact = weight.astype(np.float64)
    step = np.abs(exact).max(axis=(1, 2, 3), keepdims=True) / largest
    step[step == 0] = 1
    error: np.ndarray = (np.round(exact / step) * step - exact).sum(axis=(2, 3))
    return error


def _shift(error: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """How far the outputs move; ``mean`` has one value for each channel of the input."""
    outputs, width = error.shape
    groups = max(1, len(mean) // width)
    if groups == 1:  # channels that were filled up with zeros come last
        return np.asarray(error[:, : len(mean)] @ mean)
    by_group = mean.reshape(groups, width)[np.arange(outputs) * groups // outputs]
    return np.asarray((error * by_group).sum(axis=1))
