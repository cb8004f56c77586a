"""The verb detect: which faces are in these pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.reading import READ_FROM_OPTIONS, ReadingToRun
from scrfdconv.cli.main import PROVE, verb
from scrfdconv.cli.terminal import output
from scrfdconv.converters.errors import InputFileError

if TYPE_CHECKING:
    from scrfdconv.checks.faces.decode import Faces
    from scrfdconv.recipes.faces.detection import Detector, Found, Unreadable

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A checkpoint or a converted model of any kind.")
]


Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures, folders or globs.")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Lowest score of a face.")]
Nms = Annotated[float, typer.Option(min=0, max=1, help="Boxes that overlap by more are one face.")]
Size = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="H W", help="Input of a dynamic model, multiples of 32.", show_default="640 640"
    ),
]
MaxFaces = Annotated[
    int, typer.Option(min=0, help="Keep the largest near the middle; 0 keeps all.")
]
Draw = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write the pictures with their faces.")
]


@verb(PROVE)
def detect(
    model: Model,
    images: Images,
    threshold: Threshold = 0.5,
    nms: Nms = 0.4,
    size: Size = None,
    max_faces: MaxFaces = 0,
    draw: Draw = None,
    reading: ReadingToRun = READ_FROM_OPTIONS,
    json: o.Json = False,
) -> None:
    """Find faces: boxes in pixels of the picture, scores, keypoints.

    A picture that cannot be read is reported, the rest goes on, and the exit code is 3.
    """
    from scrfdconv.converters.formats import files_read
    from scrfdconv.recipes.artifacts.sources import open_source
    from scrfdconv.recipes.faces.detection import (
        DetectOptions,
        faults_of,
        list_pictures,
        open_detectors,
        plan_drawings,
    )

    source = open_source(model, reading)
    paths, bad = list_pictures(images)
    options = DetectOptions(size, threshold, nms, max_faces)
    detectors = open_detectors(source, options, len(paths))
    output.say_if_seeded(source)
    output.say_if_assumed(detectors[0].runner.interface)
    for item in bad:
        output.say(f"scrfdconv: {item.reason}")
    drawings = plan_drawings(draw, paths, files_read(source)) if draw and paths else {}
    with faults_of(model):
        found, more = _detect(detectors, paths, drawings)
    bad += more
    if json:
        output.print_json(_to_dict(model, detectors[0], found, bad))
    if bad:
        raise typer.Exit(InputFileError.exit_code)


def _detect(
    detectors: Sequence[Detector], paths: list[Path], drawings: dict[Path, Path]
) -> tuple[list[dict[str, Any]], list[Unreadable]]:
    """Show each picture as it comes; keep its faces, not its pixels."""
    from scrfdconv.recipes.faces.detection import Unreadable, detect_pictures
    from scrfdconv.recipes.faces.detection import draw as write_drawing

    def write(item: Found) -> None:
        if item.path in drawings:
            write_drawing(item, drawings[item.path])

    found, bad = [], []
    with output.progress("detecting") as advance:
        for done, item in enumerate(detect_pictures(detectors, paths, write), start=1):
            if isinstance(item, Unreadable):
                output.say(f"scrfdconv: {item.reason}")
                bad.append(item)
            else:
                found.append(_picture(item, drawings.get(item.path), item.class_names))
                _show(item, item.class_names)
            advance(done, len(paths))
    return found, bad


def _show(found: Found, names: Sequence[str]) -> None:
    height, width = found.image.shape[:2]
    count = len(found.faces)
    output.show(f"{found.path}  {width}x{height}  {count} {'face' if count == 1 else 'faces'}")
    faces = found.faces
    for index, (box, score) in enumerate(zip(faces.boxes, faces.scores, strict=True)):
        named = f"  {faces.class_of(index, names)}" if faces.labels is not None else ""
        output.show(f"  {score:.3f}  " + " ".join(f"{side:8.1f}" for side in box) + named)


def _to_dict(
    model: str, detector: Detector, found: list[dict[str, Any]], bad: list[Unreadable]
) -> dict[str, Any]:
    options = detector.options
    return {
        "model": model,
        "input": list(detector.size),
        "normalization": detector.runner.interface.normalization.to_plain(),
        "threshold": options.threshold,
        "nms": options.nms_iou,
        "images": found,
        "errors": [{"file": str(item.path), "error": item.reason} for item in bad],
    }


def _picture(found: Found, drawing: Path | None, names: Sequence[str]) -> dict[str, Any]:
    height, width = found.image.shape[:2]
    return {
        "file": str(found.path),
        "size": {"height": height, "width": width},
        "faces": _faces(found.faces, names),
        **({"drawing": str(drawing)} if drawing else {}),
    }


def _faces(faces: Faces, names: Sequence[str]) -> list[dict[str, Any]]:
    from scrfdconv.checks.faces.decode import keypoint_names

    listed: list[dict[str, Any]] = []
    for index in range(len(faces)):
        face: dict[str, Any] = {
            "box": _numbers(faces.boxes[index]),
            "score": _numbers(faces.scores[index : index + 1])[0],
            "keypoints": None,
        }
        if faces.keypoints is not None:
            points = [_numbers(point) for point in faces.keypoints[index]]
            face["keypoints"] = dict(zip(keypoint_names(len(points)), points, strict=True))
        if faces.labels is not None:
            face["label"] = int(faces.labels[index])
            face["class"] = faces.class_of(index, names)
        listed.append(face)
    return listed


def _numbers(values: Any) -> list[float]:
    """Float32 in the fewest digits that read back to the same float32."""
    return [float(str(value)) for value in values]
