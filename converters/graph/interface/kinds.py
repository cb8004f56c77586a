"""The kinds of outputs that a file may have: options name them, so no library is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from scrfdconv.converters.errors import ArtifactError

# raw: (N, rows, width); flat: (rows, width) of one image; maps: (N, anchors * width, H/s, W/s);
# faces: see graph/faces.py
OutputKind = Literal["raw", "flat", "maps", "faces"]
KEY = "output_kind"  # of the metadata; absent for raw outputs
FACE_OUTPUTS = ("boxes", "scores", "keypoints", "labels", "count")
OVERLAP_PLACE, THRESHOLD_PLACE = 3, 4  # inputs of NonMaxSuppression


def output_kind(metadata: Mapping[str, str]) -> OutputKind:
    """The kind that our metadata name; ArtifactError for one that there is not."""
    kind = metadata.get(KEY, "raw")
    for known in get_args(OutputKind):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise ArtifactError(f"The model's metadata {KEY} are damaged: {kind}; convert it again.")


def without_rows(where: str) -> ArtifactError:
    """The error for a file whose metadata claim faces, and whose graph has none."""
    return ArtifactError(
        f"{where}: says that its outputs are faces, and has no rows to make them of; convert it "
        "again."
    )


@dataclass(frozen=True, kw_only=True)
class FaceRules:
    """What is a face, and how many of the best ones an image may have."""

    threshold: float
    nms_iou: float
    max_faces: int

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> FaceRules:
        """The rules that our metadata name; ArtifactError for damaged ones."""
        try:
            return cls(
                threshold=float(metadata["threshold"]),
                nms_iou=float(metadata["nms_iou"]),
                max_faces=int(metadata["max_faces"]),
            )
        except (KeyError, ValueError) as error:
            raise ArtifactError(
                f"The model's metadata on its faces are damaged ({error}); convert it again."
            ) from error

    @property
    def metadata(self) -> dict[str, str]:
        """What a file says of its faces."""
        return {name: str(value) for name, value in asdict(self).items()}
