"""From a model's outputs to faces: threshold, boxes and keypoints, non-maximum suppression.

The rules are those of the models' own tool (deepinsight/insightface, detection/scrfd/tools/
scrfd.py). `decode` does all steps; `candidates` and `nms` are its parts, for protocols with other
steps between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scrfdconv.converters.errors import CheckFailed

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

# The order of a face's five points, as seen in the picture: the viewer's left comes first.
KEYPOINT_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
# tools/scrfd.py and the insightface package report faces from this score on.
DEPLOYMENT_THRESHOLD = 0.5
# The models' test configuration keeps everything above this: what precision-recall curves need.
LOW_THRESHOLD = 0.02
# tools/scrfd.py: a box that overlaps a better one by more is the same face.
NMS_IOU = 0.4
# tools/scrfd.py counts pixels inclusively: a box from 3 to 5 is 3 wide.
PIXEL_OFFSET = 1.0
# tools/scrfd.py, max_num: a face loses twice its squared distance from the centre in area.
CENTRE_WEIGHT = 2.0

_OUTPUT = re.compile(r"(score|bbox|kps)_(\d+)")
_BATCHED_RANK = 3  # (batch, anchors, channels)
_BOX_SIDES = 4


def keypoint_names(count: int) -> tuple[str, ...]:
    """Names of a network's points: those of faces for five, ``point_0`` ... for other numbers."""
    if count == len(KEYPOINT_NAMES):
        return KEYPOINT_NAMES
    return tuple(f"point_{index}" for index in range(count))


@dataclass(frozen=True)
class Faces:
    """The faces of one picture, in pixels."""

    boxes: Float32  # (n, 4) x1, y1, x2, y2; may reach over the edges of the picture
    scores: Float32  # (n,) 0 to 1
    keypoints: Float32 | None = None  # (n, points, 2) x, y; see `keypoint_names`
    labels: Index | None = None  # (n,) the class, only for models with several
    strides: Index | None = None  # (n,) stride of each face's output; None: unknown

    def __len__(self) -> int:
        return len(self.scores)

    def class_of(self, index: int, names: Sequence[str]) -> str:
        """The name of a face's class: one of ``names``, or the number; "" for a single class."""
        if self.labels is None:
            return ""
        label = int(self.labels[index])
        return names[label] if label < len(names) else str(label)

    def take(self, which: npt.NDArray[Any]) -> Faces:
        """Return the faces of an index array, in its order, or of a mask."""
        return Faces(
            boxes=self.boxes[which],
            scores=self.scores[which],
            keypoints=None if self.keypoints is None else self.keypoints[which],
            labels=None if self.labels is None else self.labels[which],
            strides=None if self.strides is None else self.strides[which],
        )

    def above(self, threshold: float) -> Faces:
        """Return the faces with at least this score.

        After greedy suppression this equals decoding with the higher threshold: a weaker box
        never decides about a stronger one.
        """
        return self.take(self.scores >= threshold)

    def scaled_back(self, scale: float) -> Faces:
        """Scale from the canvas back to the picture that was letterboxed with ``scale``."""
        factor = np.float32(scale)
        keypoints = None if self.keypoints is None else self.keypoints / factor
        return replace(self, boxes=self.boxes / factor, keypoints=keypoints)


def decode(
    outputs: Mapping[str, npt.NDArray[Any]],
    size: tuple[int, int],
    *,
    threshold: float = DEPLOYMENT_THRESHOLD,
    nms_iou: float = NMS_IOU,
    scale: float | Sequence[float] = 1.0,
    max_faces: int = 0,
    image_size: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    prefer: Literal["centre", "largest"] = "centre",
) -> list[Faces]:
    """Find the faces in a model's outputs, best score first: one `Faces` per batch slot.

    ``outputs`` are ``score_S``, ``bbox_S`` and maybe ``kps_S`` of every stride S, each
    (N, anchors, channels), for a canvas of ``size`` = (H, W). ``scale`` is what `letterbox`
    returned, one for all slots or one each; boxes are in pixels of the picture before letterboxing,
    and suppression uses the same pixels. Nothing is clipped to the picture.

    ``max_faces`` keeps that many faces, chosen and ordered by area. With ``prefer="centre"`` the
    area is reduced by the distance from the middle of the picture, whose (height, width) is
    ``image_size``. Raises `CheckFailed` for outputs that are not those of an SCRFD or not finite.
    """
    found = candidates(outputs, size, threshold)
    scales = [scale] * len(found) if isinstance(scale, int | float) else list(scale)
    faces = [
        _suppressed(one.scaled_back(by), nms_iou) for one, by in zip(found, scales, strict=True)
    ]
    if max_faces <= 0:
        return faces
    sizes = _image_sizes(image_size, len(faces))
    return [_selected(one, max_faces, s, prefer) for one, s in zip(faces, sizes, strict=True)]


def candidates(
    outputs: Mapping[str, npt.NDArray[Any]], size: tuple[int, int], threshold: float
) -> list[Faces]:
    """Return every anchor with at least this score, in canvas pixels, one `Faces` per batch slot.

    The order is that of the anchors: by stride, then row, column, anchor, class. With several
    classes an anchor counts for each class that reaches the threshold, as in mmdet's
    ``multiclass_nms``. Raises `CheckFailed` as `decode` does.
    """
    levels = _levels(outputs)
    _require_finite(outputs)
    batch = len(levels[0].scores)
    parts = [[level.faces(slot, size, threshold) for level in levels] for slot in range(batch)]
    return [_joined(slot) for slot in parts]


def nms(boxes: Float32, scores: Float32, iou: float, offset: float = PIXEL_OFFSET) -> Index:
    """Return the indices of the boxes that survive, best score first, equal scores in order.

    Greedy: the best box removes all that overlap it by more than ``iou``, and so on. ``offset``
    is added to widths and heights: 1 as deployed, 0 in the WIDER FACE protocol.
    """
    order = np.argsort(-scores, kind="stable")
    sides = boxes[order].T  # (4, n): few long rows are faster than many short ones
    areas = (sides[2] - sides[0] + offset) * (sides[3] - sides[1] + offset)
    kept = []
    while order.size:
        kept.append(order[0])
        overlap = _overlap_with_first(sides, areas, offset)
        rest = np.flatnonzero(overlap <= iou) + 1
        order, sides, areas = order[rest], sides[:, rest], areas[rest]
    return np.array(kept, np.intp)


def _overlap_with_first(sides: Float32, areas: Float32, offset: float) -> Float32:
    corners = np.minimum(sides[2:, 1:], sides[2:, :1]) - np.maximum(sides[:2, 1:], sides[:2, :1])
    spans = np.maximum(corners + offset, 0)
    shared = spans[0] * spans[1]
    union = areas[0] + areas[1:] - shared
    # Distances may be negative, so a box may have no area: it overlaps nothing.
    overlap: Float32 = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


@dataclass(frozen=True)
class _Level:
    """The outputs of one stride."""

    stride: int
    scores: npt.NDArray[Any]  # (N, anchors, classes)
    distances: npt.NDArray[Any]  # (N, anchors, 4) left, top, right, bottom, in strides
    offsets: npt.NDArray[Any] | None  # (N, anchors, 2 * points) x, y of each, in strides

    def faces(self, slot: int, size: tuple[int, int], threshold: float) -> Faces:
        """Return the anchors of one slot with at least this score, in canvas pixels."""
        per_class = self.scores[slot]
        chosen, labels = np.nonzero(per_class >= threshold)
        centres = self._centres(chosen, size)
        reach = self.distances[slot, chosen].astype(np.float32) * np.float32(self.stride)
        boxes = np.concatenate((centres - reach[:, :2], centres + reach[:, 2:]), axis=1)
        return Faces(
            boxes=boxes,
            scores=per_class[chosen, labels].astype(np.float32),
            keypoints=self._keypoints(slot, chosen, centres),
            labels=labels if per_class.shape[1] > 1 else None,
            strides=np.full(len(chosen), self.stride, np.intp),
        )

    def _centres(self, chosen: Index, size: tuple[int, int]) -> Float32:
        """Place anchors on the grid: all anchors of a cell at its corner, without half a stride."""
        height, width = size[0] // self.stride, size[1] // self.stride
        anchors, left = divmod(self.scores.shape[1], max(1, height * width))
        if left or not anchors or not height * width:
            raise CheckFailed(
                f"score_{self.stride} has {self.scores.shape[1]} anchors, which is no multiple of "
                f"the {height}x{width} cells of a {size[0]}x{size[1]} input (height x width); "
                "give the size that the model ran with."
            )
        y, x = np.divmod(chosen // anchors, width)
        centres: Float32 = (np.stack((x, y), axis=1) * self.stride).astype(np.float32)
        return centres

    def _keypoints(self, slot: int, chosen: Index, centres: Float32) -> Float32 | None:
        if self.offsets is None:
            return None
        offsets = self.offsets[slot, chosen].astype(np.float32) * np.float32(self.stride)
        points: Float32 = offsets.reshape(len(chosen), offsets.shape[1] // 2, 2) + centres[:, None]
        return points


def _levels(outputs: Mapping[str, npt.NDArray[Any]]) -> list[_Level]:
    """Sort the outputs by stride; refuse outputs that are not those of an SCRFD."""
    names = {name: _OUTPUT.fullmatch(name) for name in outputs}
    strange = sorted(name for name, match in names.items() if match is None)
    strides = sorted({int(match[2]) for match in names.values() if match and match[1] == "score"})
    kinds = ["score", "bbox", *(["kps"] if f"kps_{min(strides, default=0)}" in outputs else [])]
    expected = {f"{kind}_{stride}" for kind in kinds for stride in strides}
    if strange or not strides or expected != outputs.keys():
        raise CheckFailed(
            f"the outputs are {', '.join(sorted(outputs)) or 'none'}; an SCRFD has score_8, bbox_8 "
            "and, with keypoints, kps_8, and the same for each of its other strides."
        )
    _require_shapes(outputs, strides)
    return [
        _Level(s, outputs[f"score_{s}"], outputs[f"bbox_{s}"], outputs.get(f"kps_{s}"))
        for s in strides
    ]


def _require_shapes(outputs: Mapping[str, npt.NDArray[Any]], strides: Sequence[int]) -> None:
    channels = {"bbox": _BOX_SIDES, "kps": _keypoint_channels(outputs, strides[0])}
    batch = outputs[f"score_{strides[0]}"].shape[:1]
    for name, array in outputs.items():
        kind, _, stride = name.partition("_")
        score = outputs[f"score_{stride}"].shape
        expected = (*batch, *score[1:2], *(score[2:] if kind == "score" else [channels[kind]]))
        if array.ndim != _BATCHED_RANK or array.shape != expected or not array.shape[2]:
            raise CheckFailed(
                f"{name} has shape {array.shape}; (batch, anchors, channels) with "
                f"{channels.get(kind, 'one per class')} channels, the batch of all outputs and "
                f"the anchors of score_{stride} are expected."
            )


def _keypoint_channels(outputs: Mapping[str, npt.NDArray[Any]], stride: int) -> int:
    """Those of the finest stride, which all have; CheckFailed for half a point."""
    name = f"kps_{stride}"
    width = outputs[name].shape[-1] if name in outputs and outputs[name].ndim else 0
    if width % 2:
        raise CheckFailed(f"{name} has {width} channels, which are no x and y for each point.")
    return width


def _require_finite(outputs: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in outputs.items():
        finite = np.isfinite(array)
        if not finite.all():
            raise CheckFailed(
                f"{name} has {array.size - int(finite.sum())} of {array.size} values that are not "
                "finite; there are no faces in such outputs. Verify the artifact, and look for "
                "values beyond its precision."
            )


def _joined(parts: Sequence[Faces]) -> Faces:
    keypoints = [part.keypoints for part in parts if part.keypoints is not None]
    labels = [part.labels for part in parts if part.labels is not None]
    strides = [part.strides for part in parts if part.strides is not None]
    return Faces(
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        keypoints=np.concatenate(keypoints) if keypoints else None,
        labels=np.concatenate(labels) if labels else None,
        strides=np.concatenate(strides) if strides else None,
    )


def _suppressed(faces: Faces, iou: float) -> Faces:
    """The boxes that survive within their class, best score first (mmdet's multiclass_nms)."""
    if faces.labels is None:
        return faces.take(nms(faces.boxes, faces.scores, iou))
    members = [np.flatnonzero(faces.labels == label) for label in np.unique(faces.labels)]
    kept = [own[nms(faces.boxes[own], faces.scores[own], iou)] for own in members]
    places = np.sort(np.concatenate([*kept, np.empty(0, np.intp)]).astype(np.intp))
    return faces.take(places[np.argsort(-faces.scores[places], kind="stable")])


def _image_sizes(
    given: tuple[int, int] | Sequence[tuple[int, int]] | None, count: int
) -> list[tuple[int, int]]:
    if given is None:
        raise ValueError("max_faces needs image_size: its rule uses the middle of the picture")
    sizes = np.broadcast_to(np.array(given), (count, 2))
    return [(int(height), int(width)) for height, width in sizes]


def _selected(
    faces: Faces, count: int, image_size: tuple[int, int], prefer: Literal["centre", "largest"]
) -> Faces:
    """Keep the ``count`` most prominent faces, ordered by prominence (tools/scrfd.py, max_num)."""
    if len(faces) <= count:
        return faces
    corners = faces.boxes.reshape(-1, 2, 2)
    value = (corners[:, 1] - corners[:, 0]).prod(axis=1)
    if prefer == "centre":
        middle = np.array([image_size[1] // 2, image_size[0] // 2], np.float32)
        value = value - CENTRE_WEIGHT * ((corners.mean(axis=1) - middle) ** 2).sum(axis=1)
    return faces.take(np.argsort(-value, kind="stable")[:count])
