"""What makes one SCRFD different from another: one frozen row per network, and the known rows.

The rows and the published figures are those of the configs and the README in
deepinsight/insightface, detection/scrfd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.network.bounds import LONGEST_NAME, broken_bound
from scrfdconv.converters.normalization import STANDARD, Normalization
from scrfdconv.converters.structured import plain_as, read_toml, to_json, to_plain

# Four backbone stages at strides 4, 8, 16, 32: fixed by both backbones.
STAGES = 4
FIRST_STAGE_STRIDE = 4
MOST_STRIDES = 6  # 4 to 128: a face detector looks for nothing larger
# A bottleneck's last 1x1 conv widens its stage by this factor (ResNet).
BOTTLENECK_EXPANSION = 4
# Decoders place anchors on an H//stride grid; the networks' maps only have that size
# for multiples of 32 (650x490 gives 81x61, 41x31, 21x16).
SIZE_MULTIPLE = 32
BOX_SIDES = 4  # left, top, right, bottom distances
CHANNELS = 3  # of the image
# The exporters trace a picture of this many cells (H, W) at the coarsest stride: small, so fast,
# and not square, so that a swap shows.
TRACE_CELLS = (2, 3)

Block = Literal["separable", "basic", "bottleneck"]
NeckKind = Literal["pafpn", "fpn"]
OUTPUT_KINDS = ("score", "bbox", "kps")


@dataclass(frozen=True)
class Architecture:
    """One SCRFD network. Together with weights it determines every output.

    ``head_channels`` and ``head_convs`` have one entry per stride, or a single one for a head
    that is shared over the strides. ``head_groups`` is GroupNorm's number of groups, 0 means
    BatchNorm. ``stage_channels`` are a bottleneck's planes, a quarter of its output channels.
    """

    name: str
    block: Block
    stem_channels: tuple[int, ...]  # separable: conv, unit; otherwise the three 3x3 convs
    stage_blocks: tuple[int, ...]
    stage_channels: tuple[int, ...]
    neck_channels: int
    head_channels: tuple[int, ...]
    head_convs: tuple[int, ...]
    head_groups: int
    head_shared: bool
    head_separable: bool
    box_scales: bool  # a learned factor per stride on the boxes (never on the keypoints)
    keypoints: int = 0
    strides: tuple[int, ...] = (8, 16, 32)
    anchors: int = 2  # per cell
    classes: int = 1
    shared_tower: bool = True  # mmdet's cls_reg_share: one tower feeds scores, boxes, keypoints
    class_names: tuple[str, ...] = ()  # of several classes, where a config names them
    normalization: Normalization = STANDARD  # of the pictures that the network was trained on
    neck: NeckKind = "pafpn"  # "fpn": the top-down path alone
    box_bins: int = 0  # DFL: each distance is a distribution over 0 ... box_bins - 1; 0: no DFL

    def __post_init__(self) -> None:
        """Refuse rows that no SCRFD can have, before torch reports them as a shape error."""
        too_large = broken_bound(self)
        if too_large:
            raise UsageError(f"Architecture {str(self.name)[:LONGEST_NAME]}: {too_large}.")
        towers = 1 if self.head_shared else len(self.strides)
        stem = 2 if self.block == "separable" else 3
        rules = {
            "block must be separable, basic or bottleneck": self.block
            in ("separable", "basic", "bottleneck"),
            "neck must be pafpn or fpn": self.neck in ("pafpn", "fpn"),
            "box_bins must be 0 or at least 2": self.box_bins != 1,
            f"stem_channels needs {stem} entries": len(self.stem_channels) == stem,
            f"stage_blocks needs {STAGES} entries": len(self.stage_blocks) == STAGES,
            f"stage_channels needs {STAGES} entries": len(self.stage_channels) == STAGES,
            f"head_channels needs {towers} entries": len(self.head_channels) == towers,
            f"head_convs needs {towers} entries": len(self.head_convs) == towers,
            "strides must start at 4, 8, 16 or 32 and double": self._strides_double(),
            "strides must reach at least 32": max(self.strides, default=0) >= SIZE_MULTIPLE,
            "all counts must be positive": min(self._counts()) > 0,
            "head_groups must divide the channels of every head norm": self._groups_fit(),
            "class_names needs a short text for each class": self._names_fit(),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise UsageError(f"Architecture {self.name}: {broken[0]}.")

    def _strides_double(self) -> bool:
        if self.strides[:1] not in ((4,), (8,), (16,), (32,)) or len(self.strides) > MOST_STRIDES:
            return False
        return self.strides == tuple(self.strides[0] << i for i in range(len(self.strides)))

    def _counts(self) -> tuple[int, ...]:
        return (
            *self.stem_channels,
            *self.stage_blocks,
            *self.stage_channels,
            *self.head_channels,
            *self.head_convs,
            self.neck_channels,
            self.anchors,
            self.classes,
        )

    def _groups_fit(self) -> bool:
        if not self.head_groups:
            return True
        normed = {*self.head_channels} | ({self.neck_channels} if self.head_separable else set())
        return self.head_groups > 0 and all(c % self.head_groups == 0 for c in normed)

    def _names_fit(self) -> bool:
        names = self.class_names
        texts = all(
            isinstance(n, str) and 0 < len(n) <= LONGEST_NAME and n.isprintable() for n in names
        )
        return not names or (texts and len(names) == self.classes)

    @property
    def start_level(self) -> int:
        """Index of the first backbone stage that the neck uses (1: stride 8)."""
        return (self.strides[0] // FIRST_STAGE_STRIDE).bit_length() - 1

    @property
    def stage_outputs(self) -> tuple[int, ...]:
        """Output channels of the four stages."""
        factor = BOTTLENECK_EXPANSION if self.block == "bottleneck" else 1
        return tuple(c * factor for c in self.stage_channels)

    @property
    def size_multiple(self) -> int:
        """Input height and width must be multiples of this many pixels."""
        return max(SIZE_MULTIPLE, *self.strides)

    @property
    def widths(self) -> Mapping[str, int]:
        """Last dimension of each kind of output, in the order of the outputs."""
        kinds = {"score": self.classes, "bbox": BOX_SIDES, "kps": 2 * self.keypoints}
        return {kind: width for kind, width in kinds.items() if width}

    @property
    def output_names(self) -> tuple[str, ...]:
        """``score_8 score_16 score_32 bbox_8 ...``: deployers bind to names and to their order."""
        return tuple(f"{kind}_{stride}" for kind in self.widths for stride in self.strides)

    def rows(self, height: int, width: int) -> Mapping[str, int]:
        """Rows (anchors) of each output for one image of ``height`` x ``width`` pixels."""
        return {
            name: self.anchors * (height // int(s)) * (width // int(s))
            for name, s in ((n, n.rpartition("_")[2]) for n in self.output_names)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for metadata and recipe files."""
        return asdict(self)


@dataclass(frozen=True)
class Published:
    """A row of the table in upstream's README: AP in percent on WIDER FACE val (VGA)."""

    label: str
    easy: float
    medium: float
    hard: float
    flops: str
    params: float  # millions
    milliseconds: float  # per VGA image on the authors' GPU
    note: str = ""


def _mobilenet(
    name: str,
    stem: tuple[int, int],
    blocks: tuple[int, ...],
    channels: tuple[int, ...],
    neck: int,
    feat: int,
    groups: int,
    *,
    keypoints: int = 0,
    scales: bool = True,
) -> Architecture:
    towers = 1 if groups else 3
    return Architecture(
        name=name,
        block="separable",
        stem_channels=stem,
        stage_blocks=blocks,
        stage_channels=channels,
        neck_channels=neck,
        head_channels=(feat,) * towers,
        head_convs=(2,) * towers,
        head_groups=groups,
        head_shared=bool(groups),
        head_separable=True,
        box_scales=scales,
        keypoints=keypoints,
    )


def _resnet(
    name: str,
    blocks: tuple[int, ...],
    channels: tuple[int, ...],
    neck: int,
    feat: int,
    convs: int,
    groups: int,
    *,
    base: int,
    keypoints: int = 0,
    block: Block = "basic",
) -> Architecture:
    towers = 1 if groups else 3
    return Architecture(
        name=name,
        block=block,
        stem_channels=(base // 2, base // 2, base),
        stage_blocks=blocks,
        stage_channels=channels,
        neck_channels=neck,
        head_channels=(feat,) * towers,
        head_convs=(convs,) * towers,
        head_groups=groups,
        head_shared=bool(groups),
        head_separable=False,
        box_scales=True,
        keypoints=keypoints,
    )


# GroupNorm rows share their head over the strides, BatchNorm rows have one head per stride.
# fmt: off
_ROWS = (
    _mobilenet("scrfd_500m", (16, 16), (2, 3, 2, 6), (40, 72, 152, 288), 16, 64, 16),
    _mobilenet("scrfd_1g", (32, 48), (3, 2, 1, 5), (48, 160, 216, 312), 24, 96, 8),
    _resnet("scrfd_2.5g", (3, 5, 3, 2), (24, 48, 48, 80), 24, 64, 2, 16, base=24),
    _resnet("scrfd_10g", (3, 4, 2, 3), (56, 88, 88, 224), 56, 80, 3, 16, base=56),
    _resnet("scrfd_34g", (17, 16, 2, 8), (56, 56, 144, 184), 128, 256, 2, 32, base=56,
            block="bottleneck"),
    _mobilenet("scrfd_500m_kps", (16, 16), (2, 3, 2, 6), (40, 72, 152, 288), 16, 64, 0,
               keypoints=5, scales=False),
    _resnet("scrfd_2.5g_kps", (3, 5, 3, 2), (24, 48, 48, 80), 24, 64, 2, 0, base=24, keypoints=5),
    _resnet("scrfd_10g_kps", (3, 4, 2, 3), (56, 88, 88, 224), 56, 80, 3, 0, base=56, keypoints=5),
    _mobilenet("scrfd_1gbn", (32, 48), (3, 2, 1, 5), (48, 160, 216, 312), 24, 96, 0),
    _resnet("scrfd_1.3g", (3, 5, 3, 2), (16, 32, 40, 72), 24, 48, 2, 16, base=16),
)
# fmt: on

BUILTIN: Mapping[str, Architecture] = MappingProxyType({row.name: row for row in _ROWS})
DEFAULT_MODEL = "scrfd_500m_kps"

PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "scrfd_500m": Published("SCRFD_500M", 90.57, 88.12, 68.51, "500M", 0.57, 3.6),
        "scrfd_1g": Published("SCRFD_1G", 92.38, 90.57, 74.80, "1G", 0.64, 4.1),
        "scrfd_2.5g": Published("SCRFD_2.5G", 93.78, 92.16, 77.87, "2.5G", 0.67, 4.2),
        "scrfd_10g": Published("SCRFD_10G", 95.16, 93.87, 83.05, "10G", 3.86, 4.9),
        "scrfd_34g": Published("SCRFD_34G", 96.06, 94.92, 85.29, "34G", 9.80, 11.7),
        "scrfd_500m_kps": Published(
            "SCRFD_500M_KPS",
            90.97,
            88.44,
            69.49,
            "500M",
            0.57,
            3.6,
            note="published FLOPs, parameters and time repeat the row of SCRFD_500M; "
            "the network has 0.584 GFLOPs and 0.63 M parameters",
        ),
        "scrfd_2.5g_kps": Published("SCRFD_2.5G_KPS", 93.80, 92.02, 77.13, "2.5G", 0.82, 4.3),
        "scrfd_10g_kps": Published("SCRFD_10G_KPS", 95.40, 94.01, 82.80, "10G", 4.23, 5.0),
    }
)


def common_row(architecture: Architecture) -> Architecture:
    """The built-in row that computes the same, for its common name; else ``architecture``."""
    same = (a for a in BUILTIN.values() if replace(architecture, name=a.name) == a)
    return next(same, architecture)


def known_name(text: str) -> str | None:
    """The built-in name that ``text`` means (``SCRFD_500M_KPS``, ``scrfd_500m_bnkps``), if any."""
    name = text.lower().replace("_bnkps", "_kps")
    return name if name in BUILTIN else None


def named_architecture(text: str) -> Architecture:
    """The architecture that ``--architecture`` names: a built-in name or a TOML file."""
    name = known_name(text)
    if name:
        return BUILTIN[name]
    path = Path(text)
    if path.suffix == ".toml":
        return architecture_from_toml(path)
    raise UsageError(
        f"--architecture {text}: neither a known model nor a .toml file; known: "
        f"{', '.join(BUILTIN)}."
    )


def architecture_from_toml(path: Path) -> Architecture:
    """Read the ``[architecture]`` table of a TOML file; its keys are the fields of the class.

    ``base = "scrfd_10g"`` starts from a built-in row, so that a file only states what differs.
    """
    table = read_toml(path, dict[str, Any]).get("architecture")
    if not isinstance(table, dict):
        raise InputFileError(
            f"{path}: has no [architecture] table; `scrfdconv models scrfd_10g --toml` prints one."
        )
    values = _with_base(table, path)
    unknown = sorted(values.keys() - {field.name for field in fields(Architecture)})
    if unknown:
        known = ", ".join(field.name for field in fields(Architecture))
        raise InputFileError(f"{path}: unknown key {unknown[0]!r}; known are base, {known}.")
    return plain_as(values, Architecture, str(path), "architecture")


def _with_base(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table on top of the built-in row ``base``; the default name is the file's stem."""
    base = table.get("base")
    name = known_name(base) if isinstance(base, str) else None
    if base is not None and name is None:
        raise InputFileError(f"{path}: base {base!r} is not one of {', '.join(BUILTIN)}.")
    row = to_plain(BUILTIN[name]) if name else {}
    own = {key: value for key, value in table.items() if key != "base"}
    return {**row, "name": path.stem, **own}


def toml_from_architecture(architecture: Architecture) -> str:
    """A TOML file for ``architecture``, to be changed by hand and given as ``--architecture``."""
    lines = []
    for key, value in architecture.to_dict().items():
        lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(["[architecture]", *lines, ""])


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return to_json(value)  # which TOML's basic strings are, too
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_value(v)}" for key, v in value.items()) + " }"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return str(value)


def require_shape(
    shape: tuple[int, int], multiple: int = SIZE_MULTIPLE, option: str = "--shape"
) -> None:
    """Raise UsageError unless height and width are positive multiples of ``multiple``."""
    if -1 in shape:  # upstream's way to say it
        raise UsageError(
            f"{option} {shape[0]} {shape[1]}: leave {option} out, and batch, height and width are "
            f"free; a fixed size with a free batch is {option} 640 640 --batch dynamic."
        )
    faults = []
    for name, size in zip(("height", "width"), shape, strict=True):
        below = size // multiple * multiple
        near = f"{below} or {below + multiple}" if below > 0 else str(multiple)
        if size <= 0 or size % multiple:
            faults.append(f"{name} {size} (nearest: {near})")
    if faults:
        raise UsageError(
            f"{option} {shape[0]} {shape[1]}: {' and '.join(faults)} must be a positive multiple "
            f"of {multiple}; decoders place anchors on that grid."
        )


def trace_size(architecture: Architecture) -> tuple[int, int]:
    """Height and width of the picture that exporters trace: 64x96 for strides up to 32."""
    height, width = TRACE_CELLS
    return height * architecture.size_multiple, width * architecture.size_multiple
