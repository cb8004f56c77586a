"""An ncnn network from an ONNX file: pnnx converts, names and sizes are put right afterwards."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.errors import ArtifactError, MissingError, UsageError
from scrfdconv.converters.formats.ncnn.graph import for_pnnx
from scrfdconv.converters.formats.ncnn.reading import (
    Layer,
    half_weights,
    param_text,
    parsed_layers,
    read_network,
    weights_name,
)
from scrfdconv.converters.graph.model_file import image_input, load_onnx, serialised
from scrfdconv.converters.network.architecture import CHANNELS, SIZE_MULTIPLE
from scrfdconv.converters.runner import INPUT_NAME
from scrfdconv.converters.system.scratch import scratch_folder

# Two sizes without a common side tell pnnx which numbers depend on the picture's size.
_TRACED = ((6, 8), (10, 4))  # in units of the largest stride
_FREE = -1  # a side of Reshape that follows from the others


def write_model(source: Path, out: Path, precision: str) -> None:
    """Write ``out`` (.param) and its .bin from the ONNX file ``source``.

    Raises UsageError for a batch, ArtifactError where pnnx cannot convert.
    """
    model = load_onnx(source)
    outputs = [value.name for value in model.graph.output]
    batch, _, height, width = (d.dim_value for d in image_input(model).type.tensor_type.shape.dim)
    if batch > 1:
        raise UsageError(f"{source}: has a batch of {batch}; ncnn takes one picture at a time.")
    fixed = (height, width) if height and width else None
    with scratch_folder() as folder:
        prepared = folder / "model.onnx"
        prepared.write_bytes(serialised(for_pnnx(model, str(source))))
        sizes = [fixed] if fixed else _traced_sizes(outputs)
        _run_pnnx(prepared, sizes)
        param = folder / "model.ncnn.param"
        text, weights = param.read_text("utf-8"), param.with_suffix(".bin").read_bytes()
        if precision == "fp16":
            weights = half_weights(read_network(param))
    out.with_suffix(".bin").write_bytes(weights)
    digest = digest_of(out.with_suffix(".bin"))
    layers = [_renamed(layer, outputs, fixed, digest) for layer in parsed_layers(text, source)]
    out.write_text(param_text(layers), "utf-8")


def _traced_sizes(outputs: list[str]) -> list[tuple[int, int]]:
    strides = [int(name.rpartition("_")[2]) for name in outputs if name.startswith("score_")]
    unit = max([SIZE_MULTIPLE, *strides])
    return [(h * unit, w * unit) for h, w in _TRACED]


def _run_pnnx(model: Path, sizes: list[tuple[int, int]]) -> None:
    """Leave ``model.ncnn.param`` and ``model.ncnn.bin`` beside ``model``, and files nobody reads.

    Calls the package's program, because its Python module loads torch. Weights come in float32:
    pnnx's own half weights are zero below 6.1e-5, where float16 still has 10 bits. Measured for
    2.5G_KPS with seeded weights: logits at stride 32 are 0.014 too high with pnnx's, 0.002 with
    weights that are rounded to the nearest.
    """
    names = ("inputshape", "inputshape2")
    shapes = [
        f"{name}=[1,{CHANNELS},{h},{w}]f32" for name, (h, w) in zip(names, sizes, strict=False)
    ]
    done = subprocess.run(  # noqa: S603 - a program of an installed package
        [str(_program()), model.name, "fp16=0", *shapes],
        cwd=model.parent,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not model.with_suffix(".ncnn.param").is_file():
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise ArtifactError(
            f"pnnx cannot convert {model.name} (exit code {done.returncode}): {last}."
        )


def _program() -> Path:
    found = importlib.util.find_spec("pnnx")
    if found is None or not found.origin:
        raise MissingError("ncnn needs pnnx: pip install 'scrfdconv[ncnn]'.")
    return Path(found.origin).with_name("pnnx.exe" if sys.platform == "win32" else "pnnx")


def _renamed(layer: Layer, outputs: list[str], fixed: tuple[int, int] | None, digest: str) -> Layer:
    """A layer with our blob names; the input says its size and which .bin belongs to the text."""
    names = {"in0": INPUT_NAME} | {f"out{i}": name for i, name in enumerate(outputs)}
    layer = replace(
        layer,
        inputs=tuple(names.get(name, name) for name in layer.inputs),
        outputs=tuple(names.get(name, name) for name in layer.outputs),
    )
    if layer.kind == "Input":
        height, width = fixed or (0, 0)
        size = {0: str(width), 1: str(height), 2: str(CHANNELS)} if fixed else {}
        return replace(layer, name=weights_name(digest), parameters=size)
    if layer.kind == "Reshape" and 6 in layer.parameters:  # noqa: PLR2004 - an expression
        # Every reshape that is left is a head's: (cells * anchors, values). Expressions need an
        # ncnn of 2025; the library has known -1 from its beginning.
        values = layer.parameters[6].strip('"').partition(",")[0]
        return replace(layer, parameters={0: values, 1: str(_FREE)})
    return layer
