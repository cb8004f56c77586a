"""A training config as mmdet users have it: that of scrfd_2.5g."""

CONFIG = """
_norm = dict(type='GN', num_groups=16, requires_grad=True)
optimizer = dict(type='SGD', lr=0.01)
gpu_ids = range(0, 2)
model = dict(
    type='SCRFD',
    backbone=dict(
        type='ResNetV1e', depth=0, num_stages=4, base_channels=24,
        block_cfg=dict(block='BasicBlock', stage_blocks=(3, 5, 3, 2),
                       stage_planes=[24, 48, 48, 80])),
    neck=dict(type='PAFPN', in_channels=[24, 48, 48, 80], out_channels=24, start_level=1,
              add_extra_convs='on_output', num_outs=3),
    bbox_head=dict(
        type='SCRFDHead', num_classes=1, in_channels=24, stacked_convs=2, feat_channels=64,
        norm_cfg=_norm, cls_reg_share=True, strides_share=True, scale_mode=2,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[1, 2],
                              base_sizes=[16, 64, 256], strides=[8, 16, 32]),
        loss_dfl=False, reg_max=8, use_kps=False))
"""
