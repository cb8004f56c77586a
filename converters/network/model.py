"""The SCRFD network, from image to outputs, with the parameter names of mmdet checkpoints.

The names are the file format: ``backbone.layer1.0.conv1.weight``. Everything here is plain torch.
Shapes are comments; N images of H x W pixels, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from scrfdconv.converters.network.architecture import BOTTLENECK_EXPANSION, BOX_SIDES, Architecture

STAGE_STRIDES = (1, 2, 2, 2)  # ResNet: stem and pool give stride 4 already


class SCRFD(nn.Module):
    """A face detector: (N, 3, H, W) RGB in [-1, 1] to scores, box distances and keypoints.

    Returns one tensor per name of ``Architecture.output_names``, each (N, rows, width), rows
    ordered by y, x, anchor. Scores are probabilities; distances are in units of the stride.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        separable = architecture.block == "separable"
        self.backbone = MobileNet(architecture) if separable else ResNet(architecture)
        self.neck = PAFPN(architecture) if architecture.neck == "pafpn" else FPN(architecture)
        self.bbox_head = Head(architecture)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = self.backbone(images)  # strides 4, 8, 16, 32
        levels = self.neck(levels[self.architecture.start_level :])  # one per output stride
        return self.bbox_head(levels)  # type: ignore[no-any-return]


# ---------------------------------------------------------------- backbones


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1, each with BatchNorm and ReLU."""
    return nn.Sequential(
        conv3x3(inputs, inputs, stride, groups=inputs),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        conv1x1(inputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Backbone(nn.Module):
    """A stem to stride 4 and four stages, named ``layer1`` to ``layer4``."""

    def __init__(
        self, stem: nn.Module, stages: list[nn.Sequential], maxpool: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.stem = stem
        self.maxpool = maxpool or nn.Identity()
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.stem(images))
        levels = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            levels.append(x)
        return levels  # (N, C1, H/4, W/4) ... (N, C4, H/32, W/32)


class MobileNet(Backbone):
    """Depthwise-separable units, the first of each stage with stride 2."""

    def __init__(self, a: Architecture) -> None:
        first, second = a.stem_channels
        stem = nn.Sequential(
            nn.Sequential(conv3x3(3, first, 2), nn.BatchNorm2d(first), nn.ReLU(inplace=True)),
            separable(first, second, 1),
        )  # (N, 3, H, W) -> (N, C0, H/2, W/2)
        stages, inputs = [], second
        for blocks, outputs in zip(a.stage_blocks, a.stage_channels, strict=True):
            units = [separable(inputs, outputs, 2)]
            units += [separable(outputs, outputs, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*units))
            inputs = outputs
        super().__init__(stem, stages)


class ResNet(Backbone):
    """ResNet-V1e: three 3x3 convs as stem, a 2x2 pool, average pooling in the shortcuts."""

    def __init__(self, a: Architecture) -> None:
        stem: list[nn.Module] = []
        inputs = 3
        for stride, outputs in zip((2, 1, 1), a.stem_channels, strict=True):
            stem += [conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)]
            stem += [nn.ReLU(inplace=True)]
            inputs = outputs
        block = BottleneckBlock if a.block == "bottleneck" else BasicBlock
        stages = []
        for blocks, planes, stride in zip(
            a.stage_blocks, a.stage_channels, STAGE_STRIDES, strict=True
        ):
            units: list[nn.Module] = [block(inputs, planes, stride)]
            inputs = planes * block.expansion
            units += [block(inputs, planes, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*units))
        # 2x2 without padding, floor mode: not the 3x3 pool of other ResNets.
        super().__init__(nn.Sequential(*stem), stages, nn.MaxPool2d(2, 2))


class NoPool(nn.Identity):
    """Upstream's 1x1 average pool: it changes nothing, but would be a node in every export."""


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Identity path of a block that changes size or channels; None where nothing changes."""
    if stride == 1 and inputs == outputs:
        return None
    pool: nn.Module = NoPool()
    if stride > 1:
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convs and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, planes, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv3x3(planes, planes), nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)  # type: ignore[no-any-return]


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convs, four times wider at the end, and a shortcut."""

    expansion = BOTTLENECK_EXPANSION

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1, self.bn1 = conv1x1(inputs, planes), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv3x3(planes, planes, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv1x1(planes, outputs), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)  # type: ignore[no-any-return]


# ---------------------------------------------------------------- neck


class BiasConv(nn.Module):
    """A conv with bias under the key ``conv``: mmdet's ConvModule without norm or activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class FPN(nn.Module):
    """Feature pyramid, from the coarsest level down. No norm and no activation anywhere."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        used, c = a.stage_outputs[a.start_level :], a.neck_channels
        extra = len(a.strides) - len(used)
        self.lateral_convs = nn.ModuleList(BiasConv(i, c, 1) for i in used)
        convs = [BiasConv(c, c, 3) for _ in used] + [BiasConv(c, c, 3, 2) for _ in range(extra)]
        self.fpn_convs = nn.ModuleList(convs)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        x = [conv(level) for conv, level in zip(self.lateral_convs, levels, strict=True)]
        for i in range(len(x) - 1, 0, -1):  # top-down; a finer level sees the updated coarser one
            # A factor and no size: Resize then has constant scales, which OpenCV reads right.
            x[i - 1] = x[i - 1] + F.interpolate(x[i], scale_factor=2.0, mode="nearest")
        x = [conv(level) for conv, level in zip(self.fpn_convs, x, strict=False)]
        x = self.bottom_up(x)
        for conv in list(self.fpn_convs)[len(x) :]:  # strides beyond the backbone's
            x.append(conv(x[-1]))
        return x  # each (N, neck_channels, H/stride, W/stride)

    def bottom_up(self, x: list[Tensor]) -> list[Tensor]:
        return x


class PAFPN(FPN):
    """A second path, from the finest level up, before the strides beyond the backbone's."""

    def __init__(self, a: Architecture) -> None:
        super().__init__(a)
        pairs, c = len(self.lateral_convs) - 1, a.neck_channels
        self.downsample_convs = nn.ModuleList(BiasConv(c, c, 3, 2) for _ in range(pairs))
        self.pafpn_convs = nn.ModuleList(BiasConv(c, c, 3) for _ in range(pairs))

    def bottom_up(self, x: list[Tensor]) -> list[Tensor]:
        for i, down in enumerate(self.downsample_convs):
            x[i + 1] = x[i + 1] + down(x[i])
        x[1:] = [conv(level) for conv, level in zip(self.pafpn_convs, x[1:], strict=True)]
        return x


# ---------------------------------------------------------------- head


class NormConv(nn.Module):
    """Conv without bias, norm, ReLU; the norm's key is ``gn`` or ``bn``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int, norm: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        self.norm_name = "gn" if norm else "bn"
        self.add_module(
            self.norm_name, nn.GroupNorm(norm, outputs) if norm else nn.BatchNorm2d(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.get_submodule(self.norm_name)(self.conv(x)))  # type: ignore[no-any-return]


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise 1x1 in a head's tower, each with norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: int) -> None:
        super().__init__()
        self.depthwise_conv = NormConv(
            inputs=inputs, outputs=inputs, kernel=3, groups=inputs, norm=norm
        )
        self.pointwise_conv = NormConv(
            inputs=inputs, outputs=outputs, kernel=1, groups=1, norm=norm
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))  # type: ignore[no-any-return]


class Scale(nn.Module):
    """A learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Head(nn.Module):
    """Towers of convs and the three convs that predict scores, box distances and keypoints."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.a = a
        # mmdet keys a head by str((stride, stride)), or by "0" where all strides share one.
        self.keys = ["0"] if a.head_shared else [str((s, s)) for s in a.strides]
        shape = dict(zip(self.keys, zip(a.head_channels, a.head_convs, strict=True), strict=True))
        self.cls_stride_convs = nn.ModuleDict({k: self._tower(*v) for k, v in shape.items()})
        if not a.shared_tower:
            self.reg_stride_convs = nn.ModuleDict({k: self._tower(*v) for k, v in shape.items()})
        self.stride_cls = self._predictors(a.classes)
        self.stride_reg = self._predictors(BOX_SIDES * max(a.box_bins, 1))
        if a.keypoints:
            self.stride_kps = self._predictors(2 * a.keypoints)
        if a.box_scales:
            self.scales = nn.ModuleList(Scale() for _ in a.strides)

    def _tower(self, channels: int, convs: int) -> nn.Sequential:
        inputs = [self.a.neck_channels] + [channels] * (convs - 1)
        norm = self.a.head_groups
        if self.a.head_separable:
            return nn.Sequential(*(SeparableConv(i, channels, norm) for i in inputs))
        return nn.Sequential(
            *(NormConv(inputs=i, outputs=channels, kernel=3, groups=1, norm=norm) for i in inputs)
        )

    def _predictors(self, width: int) -> nn.ModuleDict:
        outputs = width * self.a.anchors
        convs = [nn.Conv2d(c, outputs, 3, padding=1) for c in self.a.head_channels]
        return nn.ModuleDict(dict(zip(self.keys, convs, strict=True)))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        keys = self.keys * len(levels) if self.a.head_shared else self.keys
        scores, boxes, keypoints = [], [], []
        for i, (key, x) in enumerate(zip(keys, levels, strict=True)):
            cls = self.cls_stride_convs[key](x)  # (N, feat, H/s, W/s)
            reg = cls if self.a.shared_tower else self.reg_stride_convs[key](x)
            box = self.stride_reg[key](reg)
            scores.append(rows(self.stride_cls[key](cls), self.a.classes).sigmoid())
            boxes.append(self._distances(self.scales[i](box) if self.a.box_scales else box))
            if self.a.keypoints:
                keypoints.append(rows(self.stride_kps[key](reg), 2 * self.a.keypoints))
        return (*scores, *boxes, *keypoints)

    def _distances(self, x: Tensor) -> Tensor:
        """(N, anchors*4[*bins], h, w) -> (N, h*w*anchors, 4), in units of the stride."""
        if not self.a.box_bins:
            return rows(x, BOX_SIDES)
        # The mean of a distribution (Li et al. 2020, Generalized Focal Loss, equation 5).
        logits = rows(x, self.a.box_bins)  # (N, h*w*anchors*4, bins)
        bins = torch.arange(self.a.box_bins, dtype=x.dtype)
        mean = logits.softmax(-1) @ bins[:, None]
        return mean.reshape(x.shape[0], -1, BOX_SIDES)


def rows(x: Tensor, width: int) -> Tensor:
    """(N, anchors*width, h, w) -> (N, h*w*anchors, width); rows in the order y, x, anchor."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width)
