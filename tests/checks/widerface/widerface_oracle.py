"""WIDER FACE scoring as plain loops, prediction by prediction: slow, and easy to check by eye.

Independent of `checks/widerface/protocol.py`: it takes plain data and shares no code with
it. Load it with ``runpy.run_path``, because test folders are not packages.
"""

import numpy as np

THRESHOLDS = [1 - (t + 1) / 1000 for t in range(1000)]


def evaluate(images, iou=0.5):
    """Average precision of (boxes (m, 4), counts (m,), detections (n, 5)) per image, and counts.

    Returns the AP and, per threshold, the proposals and the found faces.
    """
    images = [(boxes, counts, by_score(found)) for boxes, counts, found in images]
    scores = [row[4] for _, _, detections in images for row in detections]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    totals = np.zeros((len(THRESHOLDS), 2), dtype=np.int64)
    for boxes, counts, detections in images:
        if len(boxes) and len(detections):
            running = match_in_order(boxes, counts, detections, iou)
            normalised = (detections[:, 4] - low) / (high - low if high > low else 1.0)
            totals += read_at_thresholds(normalised, running)
    faces = sum(int(np.sum(counts)) for _, counts, _ in images)
    return area(totals, faces), totals


def by_score(detections):
    return np.array(sorted(detections.tolist(), key=lambda row: -row[4])).reshape(-1, 5)


def match_in_order(boxes, counts, detections, iou):
    """(proposals, found) after each prediction."""
    found = [False] * len(boxes)
    proposals = 0
    running = np.zeros((len(detections), 2), dtype=np.int64)
    for number, detection in enumerate(detections):
        overlaps = overlaps_with(detection, boxes)
        best = int(np.argmax(overlaps))
        hit = overlaps[best] >= iou
        if not hit or counts[best]:
            proposals += 1
        if hit and counts[best]:
            found[best] = True
        running[number] = proposals, sum(found)
    return running


def overlaps_with(detection, boxes):
    x1, y1, w, h = detection[:4]
    x2, y2 = x1 + w, y1 + h
    bx2, by2 = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    width = np.minimum(x2, bx2) - np.maximum(x1, boxes[:, 0]) + 1
    height = np.minimum(y2, by2) - np.maximum(y1, boxes[:, 1]) + 1
    inside = (width > 0) & (height > 0)
    common = np.where(inside, width * height, 0.0)
    own = (x2 - x1 + 1) * (y2 - y1 + 1)
    areas = (bx2 - boxes[:, 0] + 1) * (by2 - boxes[:, 1] + 1)
    return np.where(inside, common / np.where(inside, own + areas - common, 1.0), 0.0)


def read_at_thresholds(scores, running):
    """What was counted up to the last prediction that reaches each threshold."""
    rows = np.zeros((len(THRESHOLDS), 2), dtype=np.int64)
    for number, threshold in enumerate(THRESHOLDS):
        reached = np.where(scores >= threshold)[0]
        if len(reached):
            rows[number] = running[reached[-1]]
    return rows


def area(totals, faces):
    if not faces:
        return float("nan")
    recall = [0.0] + [found / faces for _, found in totals] + [1.0]
    precision = [0.0] + [found / shown if shown else 0.0 for shown, found in totals] + [0.0]
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
