"""Average precision of one image's boxes, by COCO's own evaluation (pycocotools)."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.custom.labels import read_fields
from tasks.metrics.custom.options import Options, Outputs, finite

_COLUMNS = 6  # of one output of rows: four of the box, score, class


def average_precision(outputs: Outputs, label: str, options: Options) -> float:
    """Return AP at IoU 0.50 to 0.95, averaged over the image's classes.

    Outputs are boxes [n, 4], scores [n] or [n, classes] and class numbers [n] by role, or one of
    rows [n, 6] with the box, its score and class. The label is
    `{"boxes": [[x1, y1, x2, y2], …], "labels": [0, …]}`. An image without boxes scores 1 where
    nothing above the threshold was found, else 0.
    """
    boxes, scores, classes = _detections(outputs, options)
    fields = read_fields(label)
    right = _boxes(np.asarray(fields.get("boxes", []), np.float64), options.boxes)
    names = fields.get("labels", [])
    if not isinstance(names, list) or len(names) != len(right):
        raise BadInput(f"the label has {len(right)} boxes and other than so many labels")
    numbers = [options.number(str(name)) for name in names]
    if not len(right):
        return float(not (scores > options.threshold).any())
    return _coco(right, numbers, boxes, scores, classes)


def _detections(
    outputs: Outputs, options: Options
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    if options.roles is None:
        rows = options.only(outputs)
        if rows.shape[-1] != _COLUMNS:
            raise BadInput(
                f"the output has shape {list(rows.shape)}: rows of box, score and class are "
                "needed; name boxes, scores and labels under `outputs` where they are apart"
            )
        rows = rows.reshape(-1, _COLUMNS)
        return _boxes(rows[:, :4], options.boxes), rows[:, 4], rows[:, 5].astype(np.int64)
    boxes, scores = (finite(outputs, options.roles[role]) for role in ("boxes", "scores"))
    boxes = _boxes(boxes, options.boxes)
    scores = scores.reshape(len(boxes), -1)
    if "labels" in options.roles:
        classes = finite(outputs, options.roles["labels"]).ravel()
    else:
        classes = scores.argmax(axis=1).astype(np.float64)
    return boxes, scores.max(axis=1, initial=0.0), classes.astype(np.int64)


def _boxes(boxes: NDArray[np.float64], form: str) -> NDArray[np.float64]:
    """Return boxes [n, 4] as COCO has them: left, top, width, height."""
    flat = boxes.reshape(-1, 4)
    if form == "xywh":
        return flat
    first, second = flat[:, :2], flat[:, 2:]
    if form == "cxcywh":
        return np.concatenate([first - second / 2, second], axis=1)
    return np.concatenate([first, second - first], axis=1)


def _coco(
    right: NDArray[np.float64],
    numbers: list[int],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not len(boxes):
        return 0.0
    annotations = [
        {
            "id": place + 1,
            "image_id": 1,
            "category_id": number,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for place, (box, number) in enumerate(zip(right.tolist(), numbers, strict=True))
    ]
    results = [
        {"image_id": 1, "category_id": number, "bbox": box, "score": score}
        for box, score, number in zip(
            boxes.tolist(), scores.tolist(), classes.tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = {
            "images": [{"id": 1}],
            "annotations": annotations,
            "categories": [{"id": number} for number in sorted({*numbers, *classes.tolist()})],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])
