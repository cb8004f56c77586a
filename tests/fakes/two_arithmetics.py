"""A runner as OpenVINO's on a processor with bfloat16: one file, two arithmetics."""

from __future__ import annotations

from scrfdconv.converters.graph.onnx_runner import OnnxRunner


class TwoArithmetics(OnnxRunner):
    """``path`` in float32; its twin says that it computes in bfloat16."""

    arithmetic = "fp32"

    @property
    def computes_in(self):
        return self.arithmetic

    def twin(self):
        other = type(self)(self.path)
        other.arithmetic = "bf16"
        return other
