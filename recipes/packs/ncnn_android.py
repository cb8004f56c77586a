"""Files for nihui's demos: github.com/nihui/ncnn-android-scrfd and ncnn-webassembly-scrfd.

The demos load ``scrfd_NAME-opt2.param`` and ``.bin`` from their assets and read feature maps by
name. ``_kps`` in NAME makes them read keypoints, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.recipes.packs import README, Contents, Pack

if TYPE_CHECKING:
    from scrfdconv.checks.results import CheckResult
    from scrfdconv.converters.runner import Outputs

# The entries of the demos' lists. Other names need an entry there.
LISTED = ("500m", "500m_kps", "1g", "2.5g", "2.5g_kps", "10g", "10g_kps", "34g")
IMAGE = "input.1"
STRIDES = (8, 16, 32)
WITH_KEYPOINTS = "_kps"  # in a name
_PREFIX = "scrfd_"


class NcnnAndroid(Pack):
    """The assets of a demo app."""

    name = "ncnn-android"
    title = "nihui's ncnn demos"
    summary = "Assets for nihui's Android and WebAssembly demos, under the names that they load."
    suffixes = (".param", ".bin")
    converted_with = "--outputs maps"

    def model_name(self, source: Artifact, options: Any) -> str:
        """The NAME in the files' names: the model's without scrfd_ in front."""
        return super().model_name(source, options).removeprefix(_PREFIX)

    def home(self, out: Path, name: str) -> Path:
        """The folder itself: all models of an app lie side by side."""
        return out

    def contents(self, source: Artifact, name: str, options: Any) -> Contents:
        """The two files; UsageError where the demos would read them otherwise."""
        signature = formats()[source.format].signature(source.path)
        outputs = [tensor.name for tensor in signature.outputs]
        kinds = ["score", "bbox", *(["kps"] if WITH_KEYPOINTS in name else [])]
        wanted = {f"{kind}_{stride}" for kind in kinds for stride in STRIDES}
        if signature.image.name != IMAGE or not wanted.issubset(outputs):
            raise UsageError(
                f"{source.path}: as {name}, the demos read {' '.join(sorted(wanted))} and feed "
                f"{IMAGE}; it has {' '.join(outputs)} and {signature.image.name}: give a --name "
                f"without {WITH_KEYPOINTS} for a model without keypoints, or convert it anew."
            )
        if WITH_KEYPOINTS not in name and len(outputs) > len(wanted):
            raise UsageError(
                f"{source.path}: has keypoints, which the demos read only for a name with "
                f"{WITH_KEYPOINTS}: type --name {name}{WITH_KEYPOINTS}."
            )
        if None not in signature.image.dims:
            raise UsageError(
                f"{source.path}: has a fixed size ({signature.image}), and the demos feed any "
                "multiple of 32: convert it without --shape."
            )
        stem = f"{_PREFIX}{name}-opt2"
        files = {f"{stem}{path.suffix}": path for path in source.files}
        return {**files, README: _readme(name, stem)}

    def results(self, folder: Path, source: Artifact, options: Any) -> Iterator[CheckResult]:
        """Read the maps anchor by anchor, as the demos do, and compare with our reading."""
        from scrfdconv.checks.consumers import read_by_channel, reading_results

        (path,) = folder.glob(f"*{self.suffixes[0]}")
        runner = formats()[source.format].open(path)

        def read(outputs: Outputs) -> Outputs:
            return read_by_channel({name: values[0] for name, values in outputs.items()})

        yield from reading_results(runner, read)


def _readme(name: str, stem: str) -> str:
    listed = (
        f"`{name}` is in the list of the app."
        if name in LISTED
        else f"`{name}` is not in the list of the app: add it to `model_array` in strings.xml and "
        "to `modeltypes` in scrfdncnn.cpp, at the same place."
    )
    return f"""# {stem}

Copy both files into `app/src/main/assets` of ncnn-android-scrfd, or into `assets` of
ncnn-webassembly-scrfd. {listed}

```cpp
#include <ncnn/net.h>
ncnn::Net scrfd;
scrfd.load_param("{stem}.param");
scrfd.load_model("{stem}.bin");
ncnn::Extractor extractor = scrfd.create_extractor();
extractor.input("{IMAGE}", image);  // RGB, (x - 127.5) / 128, sides are multiples of 32
ncnn::Mat scores, boxes;
extractor.extract("score_8", scores);  // channel q: anchor q
extractor.extract("bbox_8", boxes);    // channels 4q to 4q + 3: left, top, right, bottom / 8
```
"""
