"""What a build of many artifacts could have found: every state, awkward names, NaN, faces.

Load it with ``runpy.run_path``, because test folders are not packages; `conftest.py` has fixtures.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from scrfdconv.checks.reports.outcome import (
    BuildResult,
    FaceBox,
    FacesOn,
    Histogram,
    Latency,
    Outcome,
    Picture,
)
from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.checks.tolerances import limits_for

CHECKPOINTS = {  # name: megabytes, milliseconds
    "scrfd_500m": (2.3, 12.0), "scrfd_1g": (2.6, 22.0), "scrfd_2.5g": (2.8, 44.0),
    "scrfd_10g": (15.5, 160.0), "scrfd_34g": (39.3, 570.0), "scrfd_500m_kps": (2.5, 13.0),
    "scrfd_2.5g_kps": (3.3, 46.0), "scrfd_10g_kps": (16.9, 166.0),
}  # fmt: skip
SHAPES = ("dynamic", "640x640", "480x640")
SIZE_SHARE = {"fp32": 1.0, "fp16": 0.51, "int8": 0.3}
TYPICAL_SHARE = {"fp32": 0.3, "fp16": 0.5, "int8": 0.4}  # of the limits
EDGES = tuple(float(edge) for edge in np.logspace(-9, 1, 31))
# One pixel, grey.
THUMBNAIL = (
    "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8U"
    "HRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAABAAEBAREA/8QAHwAAAQUBAQEBAQEAAAAA"
    "AAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAk"
    "M2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWW"
    "l5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/"
    "APn+v//Z"
)
PICTURES = (
    Picture("t1.jpg", 1280, 886, THUMBNAIL),
    Picture("family <b>.jpg", 640, 960, THUMBNAIL),
    Picture("street.jpg", 1920, 1080, THUMBNAIL),
)


def release(pictures: tuple[Picture, ...] = PICTURES) -> BuildResult:
    """All eight models in eleven kinds: good ones, one that fails, engines that are skipped."""
    rng = np.random.default_rng(0)
    targets = [("onnx", shape, p) for shape in SHAPES for p in SIZE_SHARE]
    targets += [("torchscript", "dynamic", "fp32"), ("tensorrt", "640x640", "fp16")]
    outcomes = [
        _outcome(rng, checkpoint, *target, pictures)
        for checkpoint in CHECKPOINTS
        for target in targets
    ]
    outcomes[8] = _with_failed_checks(outcomes[8])
    return BuildResult(
        "release", tuple(outcomes), pictures,
        {
            "scrfdconv": "0.1.0", "Python": "3.11.7", "platform": "Linux-6.1 x86_64, glibc 2.36",
            "CPU": "AMD EPYC, 2 processors, AVX2, FMA", "memory": "24 GB", "torch": "2.13.0",
            "onnx": "1.23.2", "onnxruntime": "1.32.0", "onnxsim": "0.8.1",
        },
        "scrfdconv build release.toml -o out --strict", 1284.25,
    )  # fmt: skip


def small() -> BuildResult:
    """Two checkpoints with every state and every kind of awkward content."""
    rng = np.random.default_rng(1)
    awkward = "<i>&amp;\"quoted\" 'a|b' `c` \x07 100% *very* " + "long " * 80
    good = _outcome(rng, "scrfd_500m", "onnx", "dynamic", "fp32", PICTURES)
    cached = _outcome(rng, "scrfd_500m", "onnx", "640x640", "fp16", PICTURES)
    failed = _with_failed_checks(_outcome(rng, "scrfd_500m", "onnx", "640x640", "int8", PICTURES))
    skipped = _outcome(rng, "scrfd_500m", "tensorrt", "640x640", "fp16", PICTURES)
    broken = replace(
        skipped, name="a,b:c <script>alert(1)</script>/model.onnx", checkpoint="<b>&co",
        state="failed", format="onnx", precision="fp32",
        why=f"no space left\non the disk: {awkward}",
        command="scrfdconv onnx '<b>&co.pth'",
    )  # fmt: skip
    waiting = replace(
        broken, name="<b>&co/b.onnx", precision="fp16", state="not run", why="its parent failed",
        batch=4,
    )  # fmt: skip
    cached = replace(cached, state="cached", why="", seconds=None, parents=(good.name,))
    return BuildResult(
        "small <release> & co", (good, cached, failed, skipped, broken, waiting), PICTURES,
        {"Python": "3.11", "<script>": awkward}, f"scrfdconv build small.toml # {awkward}", 61.5,
    )  # fmt: skip


def nothing() -> BuildResult:
    """A build of which ``--only`` left nothing."""
    return BuildResult("empty", ())


def _outcome(rng, checkpoint, kind, shape, precision, pictures) -> Outcome:
    megabytes, milliseconds = CHECKPOINTS[checkpoint]
    suffix = {"onnx": ".onnx", "torchscript": ".pt", "tensorrt": ".engine"}[kind]
    parts = [checkpoint, f"shape{shape}" * (shape != "dynamic"), precision * (precision != "fp32")]
    name = f"{checkpoint}/{'_'.join(filter(None, parts))}{suffix}"
    fixed = f" --shape {shape.replace('x', ' ')}" if shape != "dynamic" else ""
    verb = {"fp32": kind, "fp16": "fp16", "int8": "int8"}[precision]
    command = f"scrfdconv {verb} {checkpoint}.pth{fixed} -o {name}"
    base = Outcome(name, checkpoint, kind, precision, shape, 1, "built", command=command)
    if kind == "tensorrt":
        return replace(base, state="skipped", why="TensorRT is not installed on this machine")
    keypoints = checkpoint.endswith("kps")
    outputs = [f"{k}_{s}" for k in ("score", "bbox", "kps")[: 2 + keypoints] for s in (8, 16, 32)]
    size = int(megabytes * 1e6 * SIZE_SHARE[precision] * rng.uniform(0.99, 1.01))
    float_ms = milliseconds * rng.uniform(0.97, 1.03)
    ratio = {"fp32": 1.0, "fp16": 1.12, "int8": 0.62}[precision] * rng.uniform(0.95, 1.05)
    return replace(
        base, why="new", sha256=hashlib.sha256(name.encode()).hexdigest(), size=size,
        seconds=float(rng.uniform(1, 40)), report=_report(rng, outputs, precision),
        histograms=tuple(_histogram(rng, output, precision) for output in outputs),
        faces=tuple(_faces(rng, picture) for picture in pictures),
        latency=Latency(float_ms, float_ms * ratio, ratio, (1, 640, 640)),
        parents=(checkpoint,),
    )  # fmt: skip


def _report(rng, outputs: list[str], precision: str) -> Report:
    results = [CheckResult("parity", "interface", "faults", 0, 0),
               CheckResult("parity", "samples", "compared", 8, 1, at_least=True)]  # fmt: skip
    for output in outputs:
        limits = limits_for(precision, output)
        share = min(0.95, TYPICAL_SHARE[precision] * rng.lognormal(0, 0.5))
        where = "largest on mosaic 1x3x640x640"
        for metric in ("max_abs", "mean_abs", "p999_abs"):
            limit = getattr(limits, metric)
            results.append(
                CheckResult("parity", output, metric, limit * share, limit, detail=where)
            )
        cosine, sqnr = 1 - (1 - limits.cosine) * share**2, limits.sqnr - 20 * math.log10(share)
        results.append(CheckResult("parity", output, "cosine", cosine, limits.cosine, True, where))
        results.append(CheckResult("parity", output, "sqnr", sqnr, limits.sqnr, True, where))
    for metric in ("recall", "precision"):
        detail = "1215 faces on 40 photographs, 0 extra; AP50 0.9998"
        results.append(CheckResult("faces", "faces", metric, 1.0, 0.99, True, detail))
    return Report.of(results, ["the weights are seeded, not trained: this model detects no faces"])


def _histogram(rng, output: str, precision: str) -> Histogram:
    limit = limits_for(precision, output).max_abs
    errors = limit * TYPICAL_SHARE[precision] * rng.lognormal(-5, 1.2, 2_000)
    counts, _ = np.histogram(errors, EDGES)
    below = int((errors < EDGES[0]).sum()) + 12
    return Histogram(output, EDGES, tuple(int(count) for count in counts), below, limit)


def _faces(rng, picture: Picture) -> FacesOn:
    boxes = []
    for _ in range(int(rng.integers(1, 9))):
        side = picture.width * rng.uniform(0.05, 0.15)
        x = rng.uniform(0, picture.width - side)
        y = rng.uniform(0, picture.height - side * 1.3)
        box = (x, y, x + side, y + side * 1.3, rng.uniform(0.5, 0.95))
        boxes.append(FaceBox(*map(float, box)))
    moved = [replace(box, x2=box.x2 + side * 0.03, score=box.score - 0.004) for box in boxes]
    return FacesOn(picture.name, tuple(boxes), tuple(moved))


def _with_failed_checks(outcome: Outcome) -> Outcome:
    assert outcome.report
    results = list(outcome.report.results)
    results[2] = replace(results[2], measured=results[2].limit * 41)
    results[3] = replace(results[3], measured=math.nan, detail="3 values are NaN <or> infinite")
    results[-1] = replace(results[-1], measured=0.9899999)
    results[-2] = replace(results[-2], measured=-math.inf)
    return replace(outcome, state="failed", report=Report.of(results, outcome.report.notes))
