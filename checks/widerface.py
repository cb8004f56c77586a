"""WIDER FACE validation: ground truth, result files, average precision, and the pre-processing.

``load_ground_truth`` and ``load_results`` read, ``evaluate`` scores, ``write_results`` writes.
``prepare`` and ``restore`` are how the published numbers look at an image.

The protocol is the one of the data set's own ``eval_tools`` (http://shuoyang1213.me/WIDERFACE/),
which the scripts of RetinaFace and SCRFD repeat. An image is named ``EVENT/NAME`` everywhere,
such as ``0--Parade/0_Parade_marchingband_1_465``.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scrfdconv.converters.errors import CheckFailed, InputFileError, OutputError, UsageError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Detections by image: (n, 5) x, y, width, height in pixels of the image, then the score.
Results = Mapping[str, Floats]

SUBSETS = ("easy", "medium", "hard")  # of the faces, not of the images
IOU_THRESHOLD = 0.5  # the protocol's: a prediction that overlaps a face by this much is a hit
THRESHOLD_COUNT = 1000  # the protocol's: scores 0.999, 0.998 ... 0.000 after normalisation
PIXEL = 1.0  # the protocol counts both border pixels: a box from 3 to 5 is 3 wide
COLUMNS = 5  # x y w h score
QUOTED = 60  # characters of a bad line in a message: enough to recognise it
PAIRS_AT_ONCE = 1 << 16  # predictions x faces in one IoU matrix: 512 KiB, which stays in the cache

# Where the .mat files are when the archives are unpacked side by side, or one of them alone.
GROUND_TRUTH_FOLDERS = ("", "ground_truth", "eval_tools/ground_truth", "wider_face_split")
IMAGE_FOLDERS = ("WIDER_val/images", "images", "")

# The published modes: 0 is the one of the published table, a number above 30 is a square size.
VGA = 0
MULTI_SCALE = 1
ORIGINAL = 2
LARGEST_DEFAULT_MODE = 30
DEFAULT_SIZE = 640  # modes 0 and 3..30
LONG_SIDE, SHORT_SIDE = 1650, 1100  # mode 1
MULTIPLE = 32  # the coarsest stride; five-level models need 128
MEAN = 127.5  # the model's input is (x - 127.5) / 128
STD = 128.0


# --- ground truth ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageTruth:
    """The labelled faces of one image, and which of them count in which subset."""

    name: str  # EVENT/NAME
    boxes: Floats  # (m, 4) x, y, width, height, pixels
    counts: Bools  # (3, m), rows in the order of SUBSETS; the other faces are neither hit nor miss


@dataclass(frozen=True)
class GroundTruth:
    """The labelled faces of a set of images, in the order of the .mat files."""

    images: tuple[ImageTruth, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The images as ``EVENT/NAME``; the file is ``EVENT/NAME.jpg``."""
        return tuple(image.name for image in self.images)

    def first(self, count: int) -> GroundTruth:
        """Keep the first ``count`` images, for a smoke run: its AP compares with no other."""
        return GroundTruth(self.images[:count])


def find_images(directory: Path) -> Path:
    """Find the folder that holds ``EVENT/NAME.jpg``, wherever the data set was unpacked."""
    for folder in IMAGE_FOLDERS:
        if any((directory / folder).glob("*--*/*.jpg")):
            return directory / folder
    raise InputFileError(
        f"{directory}: the WIDER FACE images are not here; unpack WIDER_val.zip into this folder."
    )


def load_ground_truth(directory: Path) -> GroundTruth:
    """Read the faces of the validation images and the three subsets.

    Finds ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat`` in ``directory`` or in the
    folders that the data set's archives make. Raises ``InputFileError`` where one is missing,
    unreadable, or does not fit the others.
    """
    faces = _load_mat(directory, "face")
    subsets = [_load_mat(directory, subset) for subset in SUBSETS]
    with _malformed(directory, "wider_face_val.mat"):
        names, boxes = (
            _image_names(faces),
            [_boxes(cell) for cell in _cells(faces["face_bbx_list"])],
        )
    counts = [
        _counting(directory, *pair, names, boxes) for pair in zip(SUBSETS, subsets, strict=True)
    ]
    return GroundTruth(
        tuple(
            ImageTruth(name, image_boxes, np.stack(rows))
            for name, image_boxes, *rows in zip(names, boxes, *counts, strict=True)
        )
    )


def _load_mat(directory: Path, kind: str) -> dict[str, Any]:
    from scipy.io import loadmat

    name = f"wider_{kind}_val.mat"
    path = next((p for f in GROUND_TRUTH_FOLDERS if (p := directory / f / name).is_file()), None)
    if path is None:
        raise InputFileError(
            f"{directory}: {name} is not here; unpack the WIDER FACE eval_tools into this folder."
        )
    with _malformed(path.parent, name):
        return cast(dict[str, Any], loadmat(str(path)))


@contextmanager
def _malformed(directory: Path, name: str) -> Iterator[None]:
    try:
        yield
    # loadmat and a wrong layout fail with almost any exception: struct, zlib, Key, Type, Index ...
    except Exception as error:
        raise InputFileError(
            f"{directory / name}: not a WIDER FACE ground truth file ({error}); "
            "unpack the eval_tools again."
        ) from error


def _cells(column: Any) -> Iterator[Any]:  # noqa: ANN401 - scipy gives cells as untyped objects
    """One entry per image of a cell array that is nested as events, then images."""
    for event in column[:, 0]:
        yield from event[:, 0]


def _image_names(content: dict[str, Any]) -> list[str]:
    pairs = zip(content["event_list"][:, 0], content["file_list"][:, 0], strict=True)
    return [f"{event[0]}/{file[0]}" for event, files in pairs for file in files[:, 0]]


def _boxes(cell: Any) -> Floats:  # noqa: ANN401
    boxes = np.asarray(cell, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a face box is not a number")
    return boxes


def _counting(
    directory: Path, subset: str, content: dict[str, Any], names: list[str], boxes: list[Floats]
) -> list[Bools]:
    """Per image, which of its faces belong to ``subset``: (m,) booleans."""
    with _malformed(directory, f"wider_{subset}_val.mat"):
        if _image_names(content) != names:
            raise ValueError("it lists other images than wider_face_val.mat")
        indices = _cells(content["gt_list"])
        return [_mask(cell, len(faces)) for cell, faces in zip(indices, boxes, strict=True)]


def _mask(cell: Any, faces: int) -> Bools:  # noqa: ANN401
    indices = np.asarray(cell, dtype=np.int64).ravel() - 1  # Matlab counts from 1
    if ((indices < 0) | (indices >= faces)).any():
        raise ValueError("it names a face that is not in wider_face_val.mat")
    mask = np.zeros(faces, dtype=np.bool_)
    mask[indices] = True
    return mask


# --- result files ------------------------------------------------------------------------------


def load_results(path: Path) -> dict[str, Floats]:
    """Read a result set: a folder or a .zip of ``EVENT/NAME.txt`` files, without unpacking it.

    A file holds a line with the image's name (not used: the file's own name counts, as in the
    original tools), the number of detections, and one line ``x y w h score`` for each. Only the
    innermost folders are events, so a folder around all of them or a note beside them does no harm.
    The lines may be in any order. Raises ``InputFileError`` that names the file and the line.
    """
    entries = list(_zip_entries(path) if path.is_file() else _folder_entries(path))
    outer = {folder for name, _ in entries for folder in name.parent.parents}
    results: dict[str, Floats] = {}
    for name, content in entries:
        if name.parent in outer:
            continue
        image = f"{name.parent.name}/{name.stem}"
        if image in results:
            raise InputFileError(f"{path}: there are two result files for {image}; keep one.")
        results[image] = _parse(content, f"{path}: {name}")
    if not results or any(image.startswith("/") for image in results):
        raise InputFileError(f"{path}: no result files here; they are named EVENT/NAME.txt.")
    return results


def _is_result(name: PurePosixPath) -> bool:
    # macOS adds __MACOSX/._NAME.txt to every archive.
    return name.suffix.lower() == ".txt" and not name.name.startswith(".")


def _folder_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    if not path.is_dir():
        raise InputFileError(f"{path}: no such folder or .zip file of results.")
    for file in sorted(path.rglob("*")):
        name = PurePosixPath(file.relative_to(path).as_posix())
        if not _is_result(name) or not file.is_file():
            continue
        try:
            yield name, file.read_bytes()
        except OSError as error:
            raise InputFileError(f"{file}: cannot be read ({error.strerror}).") from error


def _zip_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    # What zipfile raises for damaged, encrypted (RuntimeError) and exotic archives.
    broken = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if _is_result(name) and not member.is_dir():
                    yield name, archive.read(member)
    except broken as error:
        raise InputFileError(f"{path}: not a readable .zip of result files ({error}).") from error


def _parse(content: bytes, where: str) -> Floats:
    """Read the detections of one file: (n, 5), in the order of its lines."""
    lines = content.splitlines()  # of bytes: line ends only, and the name may be in any encoding
    rows = [line.split() for line in lines[2:] if line.strip()]
    try:
        count = int(lines[1])
    except (IndexError, ValueError) as error:
        raise InputFileError(f"{where}, line 2: the number of detections is missing.") from error
    if count != len(rows):
        raise InputFileError(f"{where}, line 2: {count} detections announced, {len(rows)} follow.")
    try:
        values = np.array([list(map(float, row)) for row in rows]).reshape(count, COLUMNS)
    except ValueError as error:
        raise InputFileError(_first_bad_line(lines, where)) from error
    if not np.isfinite(values).all():
        raise InputFileError(_first_bad_line(lines, where))
    return values


def _first_bad_line(lines: list[bytes], where: str) -> str:
    body = ((number, line) for number, line in enumerate(lines[2:], start=3) if line.strip())
    number, line = next((n, line) for n, line in body if not _is_detection(line.split()))
    text = line.decode("utf-8", errors="replace").strip()
    return f"{where}, line {number}: '{text[:QUOTED]}' is not five finite numbers x y w h score."


def _is_detection(row: list[bytes]) -> bool:
    try:
        return len(row) == COLUMNS and bool(np.isfinite(list(map(float, row))).all())
    except ValueError:
        return False


def write_results(results: Results, directory: Path) -> None:
    """Write ``EVENT/NAME.txt`` under ``directory`` for every image, in the standard layout.

    Highest score first, because other evaluators take the lines as they come; all digits, so that
    the files give exactly the AP of the arrays. An existing file is replaced only whole, hence an
    interrupted run leaves only finished images behind. Raises ``OutputError``, and ``CheckFailed``
    for detections that are not finite.
    """
    for name in sorted(results):
        _require_detections(name, results[name])
        _write_text(directory / f"{name}.txt", _result_text(name, results[name]))


def _result_text(name: str, detections: Floats) -> str:
    ordered = detections[np.argsort(-detections[:, 4], kind="stable")].astype(np.float64)
    lines = [" ".join(map(repr, row)) for row in ordered.tolist()]
    return "\n".join([f"{name}.jpg", str(len(lines)), *lines, ""])


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error
    finally:
        with suppress(OSError):  # the error above says why, this one would hide it
            part.unlink(missing_ok=True)


# --- scoring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one subset: (1000,) arrays, from the highest threshold down."""

    ap: float  # 0..1; NaN where the subset has no faces at all
    faces: int  # of the subset
    found: Ints  # faces with a hit at or above the threshold
    proposals: Ints  # predictions at or above the threshold, without those that hit other faces
    recall: Floats  # found / faces
    precision: Floats  # found / proposals; 0 where there are no proposals yet


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured: the three curves and what they were measured on."""

    curves: Mapping[str, Curve]  # keys are SUBSETS
    images: int
    predictions: int

    @property
    def ap(self) -> dict[str, float]:
        """Average precision by subset, 0..1."""
        return {subset: curve.ap for subset, curve in self.curves.items()}


def evaluate(ground_truth: GroundTruth, results: Results, iou: float = IOU_THRESHOLD) -> Evaluation:
    """Score ``results`` by the WIDER FACE validation protocol.

    Scores are normalised to 0..1 over the whole set. A prediction belongs to the face that it
    overlaps most, if by ``iou`` or more. One that hits a face outside the subset is left out; any
    other is a proposal, and the first to hit a face of the subset finds it. Images without any
    labelled face are left out, images without faces of the subset are not. Precision and recall are
    read at 1000 thresholds, and AP is the area under the precision envelope (VOC 2010 style).

    The order of the detections does not matter: the original tools sort by score first. If all
    scores are equal there is one operating point, at threshold 0. Raises ``InputFileError`` unless
    ``results`` has exactly the images of ``ground_truth``, ``CheckFailed`` for values that are not
    finite.
    """
    _require_same_images(ground_truth, results)
    matches = _match_predictions(ground_truth, results, iou)
    counts = [image.counts for image in ground_truth.images]
    masks = np.concatenate(counts, axis=1) if counts else np.zeros((len(SUBSETS), 0), np.bool_)
    return Evaluation(
        curves={name: _curve(matches, mask) for name, mask in zip(SUBSETS, masks, strict=True)},
        images=len(ground_truth.images),
        predictions=sum(map(len, results.values())),
    )


def _require_same_images(ground_truth: GroundTruth, results: Results) -> None:
    names = ground_truth.names
    events = {name.split("/")[0] for name in names}
    known = set(names)
    for name in results:
        if name in known:
            _require_detections(name, results[name])
            continue
        event = name.split("/")[0]
        what = "image" if event in events else "event"
        raise InputFileError(f"Results of {name}: no such {what} in the ground truth; remove it.")
    if missing := [name for name in names if name not in results]:
        raise InputFileError(
            f"Results of {len(missing)} of {len(names)} images are missing, first {missing[0]}; "
            "an image without detections needs a file with the count 0."
        )


def _require_detections(name: str, detections: Floats) -> None:
    if detections.ndim != 2 or detections.shape[1] != COLUMNS:  # noqa: PLR2004 - a matrix
        raise CheckFailed(f"{name}: detections have shape {detections.shape}, expected (n, 5).")
    if not np.isfinite(detections).all():
        raise CheckFailed(f"{name}: the detections contain NaN or infinite values.")


@dataclass(frozen=True)
class _Matches:
    """Every prediction of the images that have faces, one after the other."""

    scores: Floats  # (p,) normalised
    faces: Ints  # (p,) the best face, counted through all images; any where not hit
    hit: Bools  # (p,) whether it overlaps that face enough


def _match_predictions(ground_truth: GroundTruth, results: Results, iou: float) -> _Matches:
    """Match every prediction with its face. The subsets differ only in what a face is worth."""
    scores, faces, hits = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    offset = 0
    for image in ground_truth.images:
        detections = results[image.name]
        if len(image.boxes) and len(detections):
            best, overlap = _best_faces(detections[:, :4].astype(np.float64), image.boxes)
            scores.append(detections[:, 4])
            faces.append(best + offset)
            hits.append(overlap >= iou)
        offset += len(image.boxes)
    low, high = _score_range(results)
    normalised = (np.concatenate(scores) - low) / ((high - low) or 1.0)
    return _Matches(normalised, np.concatenate(faces), np.concatenate(hits))


def _score_range(results: Results) -> tuple[float, float]:
    """Lowest and highest score of all images, with or without faces."""
    scores = [detections[:, 4] for detections in results.values() if len(detections)]
    if not scores:
        return 0.0, 0.0
    return float(min(s.min() for s in scores)), float(max(s.max() for s in scores))


def _best_faces(predictions: Floats, faces: Floats) -> tuple[Ints, Floats]:
    """Index and IoU of the face that each prediction overlaps most, the first one of equals."""
    best = np.empty(len(predictions), np.int64)
    overlap = np.empty(len(predictions))
    step = max(1, PAIRS_AT_ONCE // len(faces))
    for start in range(0, len(predictions), step):
        part = slice(start, start + step)
        matrix = _iou(predictions[part], faces)
        best[part] = matrix.argmax(axis=1)
        overlap[part] = matrix.max(axis=1)
    return best, overlap


def _iou(predictions: Floats, faces: Floats) -> Floats:
    """IoU of (n, 4) with (m, 4) boxes x, y, w, h, border pixels included: (n, m)."""
    # The sums are formed in the order of the original tools: an overlap of exactly one half is
    # common between whole-number boxes, and another rounding would turn it into a miss.
    x1, y1, x2, y2 = _corners(predictions[:, None])
    fx1, fy1, fx2, fy2 = _corners(faces)
    width = np.minimum(x2, fx2) - np.maximum(x1, fx1) + PIXEL
    height = np.minimum(y2, fy2) - np.maximum(y1, fy1) + PIXEL
    common = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    areas = (x2 - x1 + PIXEL) * (y2 - y1 + PIXEL)
    union = areas + (fx2 - fx1 + PIXEL) * (fy2 - fy1 + PIXEL) - common
    # A box of negative size has no common area, and then possibly a union of 0.
    return cast(Floats, np.divide(common, union, out=common, where=common > 0))


def _corners(boxes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    x, y, w, h = (boxes[..., i] for i in range(4))
    return x, y, x + w, y + h


def _curve(matches: _Matches, counts: Bools) -> Curve:
    """Draw the curve of one subset from ``counts``, which of all faces belong to it."""
    # In descending order of the scores a face is found by the best of its predictions, and a count
    # "up to the last prediction at or above t" is a count of scores >= t. No order is needed then.
    counting = np.zeros(len(matches.scores), np.bool_)
    counting[matches.hit] = counts[matches.faces[matches.hit]]
    best = np.full(len(counts), -np.inf)
    np.maximum.at(best, matches.faces[counting], matches.scores[counting])
    found = _count_at_thresholds(best[np.isfinite(best)])
    proposals = _count_at_thresholds(matches.scores[counting | ~matches.hit])
    faces = int(counts.sum())
    recall = found / faces if faces else np.full(THRESHOLD_COUNT, np.nan)
    precision = np.divide(found, proposals, out=np.zeros(THRESHOLD_COUNT), where=proposals > 0)
    return Curve(average_precision(recall, precision), faces, found, proposals, recall, precision)


def _count_at_thresholds(scores: Floats) -> Ints:
    """How many ``scores`` reach each threshold, from the highest threshold down."""
    # Formed as in the protocol: np.linspace would round some thresholds the other way.
    thresholds = 1 - (np.arange(THRESHOLD_COUNT) + 1) / THRESHOLD_COUNT
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return len(scores) - below


def average_precision(recall: Floats, precision: Floats) -> float:
    """Area under the precision envelope, for recalls in ascending order: 0..1.

    The envelope is, at each recall, the best precision at that recall or a higher one.
    """
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(steps * envelope))


# --- pre-processing ----------------------------------------------------------------------------


@dataclass(frozen=True)
class EvalGeometry:
    """How an image is scaled and padded before the model sees it. All sizes are (height, width)."""

    image: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per image pixel, along y and along x: rounding makes them differ."""
        return self.resized[0] / self.image[0], self.resized[1] / self.image[1]


def parse_mode(text: str) -> int:
    """Translate ``vga``, ``original`` or a number into a mode."""
    names = {"vga": VGA, "original": ORIGINAL}
    if text.lower() in names:
        return names[text.lower()]
    if text.isdecimal():
        return int(text)
    raise UsageError(f"Mode '{text}' is unknown; give vga, original, or a size such as 640.")


def eval_geometry(
    image_size: tuple[int, int], mode: int = VGA, multiple: int = MULTIPLE
) -> EvalGeometry:
    """Plan the resizing and padding of an image of (height, width) for a mode.

    0 (the published table) and 3..30 fit it into 640x640, 1 into 1650 by 1100 in either
    orientation, 2 keeps its size, a larger number N fits it into NxN. The image stays top left, and
    the padded size is a multiple of ``multiple``. Raises ``UsageError`` where N is not.

    In mode 1 the published script pads to 1100x1650, which no decoder of this model can read and
    which fails on upright images; here it is the next multiples in the orientation of the image.
    """
    box = _bounding_box(image_size, mode, multiple)
    if box is None:
        return EvalGeometry(image_size, image_size, _round_up(image_size, multiple))
    height, width = image_size
    # The published pipeline fits long into long and short into short side.
    scale = min(max(box) / max(image_size), min(box) / min(image_size))
    # It rounds half up, where the demo truncates. Never to nothing: OpenCV cannot resize to 0.
    resized = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    return EvalGeometry(image_size, resized, _round_up(box, multiple))


def _bounding_box(image_size: tuple[int, int], mode: int, multiple: int) -> tuple[int, int] | None:
    """Choose what the image has to fit into, (height, width); None keeps its size."""
    if mode < 0:
        raise UsageError(f"Mode {mode} is unknown; give vga, original, or a size such as 640.")
    if mode == ORIGINAL:
        return None
    if mode == MULTI_SCALE:
        upright = image_size[0] > image_size[1]
        return (LONG_SIDE, SHORT_SIDE) if upright else (SHORT_SIDE, LONG_SIDE)
    if mode <= LARGEST_DEFAULT_MODE:
        return DEFAULT_SIZE, DEFAULT_SIZE
    if mode % multiple:
        below = mode // multiple * multiple
        nearest = " or ".join(str(n) for n in (below, below + multiple) if n > LARGEST_DEFAULT_MODE)
        raise UsageError(f"Size {mode} is not a multiple of {multiple}; take {nearest}.")
    return mode, mode


def _round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def prepare(
    image: NDArray[np.uint8], mode: int = VGA, multiple: int = MULTIPLE
) -> tuple[NDArray[np.float32], EvalGeometry]:
    """Turn an OpenCV image, (H, W, 3) BGR uint8, into what the published numbers were measured on.

    Returns the model's input, (1, 3, H, W) float32 RGB in about -1..1, and the geometry for
    ``restore``. Padding is added after the normalisation and therefore grey, not black as in
    ``detect``; models with GroupNorm see the difference.
    """
    import cv2

    geometry = eval_geometry((image.shape[0], image.shape[1]), mode, multiple)
    height, width = geometry.resized
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    tensor = np.zeros((1, 3, *geometry.padded), np.float32)
    rgb = resized[:, :, ::-1].astype(np.float32)
    tensor[0, :, :height, :width] = ((rgb - MEAN) / STD).transpose(2, 0, 1)
    return tensor, geometry


def restore(boxes: NDArray[Any], geometry: EvalGeometry) -> NDArray[Any]:
    """Bring boxes of the model's input back to pixels of the image: (n, 4) xyxy both ways.

    They are clipped to the resized image without its padding. Do this before NMS, as the published
    pipeline does: the two axes have slightly different scales, and IoU sees it.
    """
    height, width = geometry.resized
    y, x = geometry.scale
    limits = np.array([width, height, width, height], boxes.dtype)
    restored: NDArray[Any] = np.clip(boxes, 0, limits) / np.array([x, y, x, y], boxes.dtype)
    return restored
