"""Model repositories for NVIDIA's Triton: NAME/config.pbtxt and NAME/1/ with the model's files.

Source of the fields: triton-inference-server, common/protobuf/model_config.proto, and server,
docs/user_guide/model_configuration. With a ``max_batch_size`` above 0, shapes are written without
the batch, and a tensor of nothing but the batch is written as one value that is reshaped away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, formats
from scrfdconv.converters.options import Option
from scrfdconv.recipes.packs import README, Contents, Pack, PackOptions

if TYPE_CHECKING:
    from scrfdconv.checks.results import CheckResult
    from scrfdconv.converters.signature import Dims, Serving, Signature, Tensor

CONFIG = "config.pbtxt"
VERSION = "1"  # the folder of the model's first version
# Pictures of several requests in one run. More pictures wait longer for each other, and a run of 8
# at 640x640 holds the memory of 8 networks.
MOST_IMAGES = 8
# The size at which a server runs a model of a free size before the first request: the one that the
# published networks were measured at.
WARM_SIZE = 640
FREE = -1  # a free side in Triton's words
_KINDS = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
}


@dataclass(frozen=True, kw_only=True)
class TritonOptions(PackOptions):
    """How the server batches, and what it does before the first request."""

    max_batch: Annotated[
        int | None,
        Option(
            help="Pictures of several requests in one run, where the model has a free batch.",
            metavar="N",
            least=1,
            shown_default=str(MOST_IMAGES),
        ),
    ] = None
    warm_up: Annotated[
        bool, Option(help="Run the model on a black picture before the first request.")
    ] = False


class Triton(Pack):
    """A model repository for Triton Inference Server."""

    name = "triton"
    title = "Triton"
    summary = "A model repository for Triton: ONNX Runtime, OpenVINO or TensorRT behind it."
    remedy = "Convert it with scrfdconv: then shapes are those that the network has."
    options: ClassVar[type] = TritonOptions

    def takes(self, maker: Format) -> bool:
        """True for every format that a backend of the server loads."""
        return maker.serving is not None

    def contents(self, source: Artifact, name: str, options: TritonOptions) -> Contents:
        """The configuration, and the files of the model under the server's names."""
        maker = formats()[source.format]
        serving, signature = maker.serving, maker.signature(source.path)
        assert serving is not None
        images = _images(source, signature, options)
        main = Path(VERSION, serving.file)
        # The server reads the files that the runtime reads; a sidecar of ours is none of them.
        files = {str(main): source.path}
        for companion in source.companions:
            if companion.stem == source.path.stem:
                files[str(main.with_suffix(companion.suffix))] = companion
        config = config_text(name, serving, signature, images, warm_up=options.warm_up)
        return {CONFIG: config, **files, README: _readme(name, signature, images)}

    def results(self, folder: Path, source: Artifact, options: Any) -> Iterator[CheckResult]:
        """Run the packed model: the server refuses outputs of other shapes than the declared."""
        from scrfdconv.checks.consumers import declared_results

        maker = formats()[source.format]
        assert maker.serving is not None
        runner = maker.open(folder / VERSION / maker.serving.file)
        yield from declared_results(maker.signature(source.path), runner)


def _images(source: Artifact, signature: Signature, options: TritonOptions) -> int:
    """Pictures in one run; 0 for a model whose batch is fixed: then shapes have all their sides."""
    wanted, most = options.max_batch, signature.most_images
    if not signature.free_batch:
        if wanted:
            raise UsageError(
                f"--max-batch {wanted}: {source.path} has a fixed batch ({signature.image}); "
                "convert it with --batch dynamic, or leave --max-batch out."
            )
        return 0
    if most and (wanted or 0) > most:
        raise UsageError(f"--max-batch {wanted}: {source.path} takes at most {most} pictures.")
    return wanted or min(MOST_IMAGES, most or MOST_IMAGES)


# ---------------------------------------------------------------- config.pbtxt


def config_text(
    name: str, serving: Serving, signature: Signature, images: int, *, warm_up: bool
) -> str:
    """``config.pbtxt``, in the text form of protocol buffers."""
    lines = [f'name: "{name}"', f'backend: "{serving.backend}"']
    if serving.platform:
        lines.append(f'platform: "{serving.platform}"')
    lines.append(f"max_batch_size: {images}")
    lines += [_tensor("input", tensor, images) for tensor in signature.inputs]
    lines += [_tensor("output", tensor, images) for tensor in signature.outputs]
    if images:
        lines.append("dynamic_batching { }")
    if serving.cpu_only:
        lines.append("instance_group [ { count: 1, kind: KIND_CPU } ]")
    if warm_up:
        lines.append(_warm_up(signature.image, images))
    return "\n".join(lines) + "\n"


def _tensor(field: str, tensor: Tensor, images: int) -> str:
    dims = tensor.dims[1:] if images else tensor.dims
    shape = f"dims: {_dims(dims)}" if dims else "dims: [ 1 ], reshape { shape: [ ] }"
    return f'{field} [ {{ name: "{tensor.name}", data_type: {_kind(tensor)}, {shape} }} ]'


def _dims(dims: Dims, free: int = FREE) -> str:
    return f"[ {', '.join(str(free if side is None else side) for side in dims)} ]"


def _kind(tensor: Tensor) -> str:
    if tensor.kind not in _KINDS:
        raise UsageError(f"{tensor.name}: Triton has no type for {tensor.kind}.")
    return _KINDS[tensor.kind]


def _warm_up(image: Tensor, images: int) -> str:
    dims = _dims(image.dims[1:] if images else image.dims, free=WARM_SIZE)
    value = f"value {{ data_type: {_kind(image)}, dims: {dims}, zero_data: true }}"
    return (
        f'model_warmup [ {{ name: "black", batch_size: 1, '
        f'inputs {{ key: "{image.name}", {value} }} }} ]'
    )


# ---------------------------------------------------------------- for people


def _readme(name: str, signature: Signature, images: int) -> str:
    image = signature.image
    batch = f"up to {images} pictures in one run" if images else "the batch of the model"
    shape = ", ".join(str(WARM_SIZE if side is None else side) for side in image.dims[1:])
    count = 1 if images else image.dims[0] or 1
    outputs = "\n".join(f"- `{tensor}`" for tensor in signature.outputs)
    wanted = ", ".join(f'"{tensor.name}"' for tensor in signature.outputs)
    return f"""# {name} for Triton

Start the server on the folder above this one: `tritonserver --model-repository=FOLDER`. The server
takes {batch}: `{image}`. `scrfdconv inspect` says how pictures become its numbers. It returns:

{outputs}

```python
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient("localhost:8001")
pixels = np.zeros(({count}, {shape}), np.{image.kind})
image = triton.InferInput("{image.name}", list(pixels.shape), "{_kind(image)[5:]}")
image.set_data_from_numpy(pixels)
names = [{wanted}]
outputs = [triton.InferRequestedOutput(name) for name in names]
answer = client.infer("{name}", [image], outputs=outputs)
found = {{name: answer.as_numpy(name) for name in names}}
```
"""
