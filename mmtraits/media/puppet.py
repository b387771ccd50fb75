"""A drawn face that talks: shaded well enough that the face detector takes it for a person's. For synthetic clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

_EYES_PX = 56.0  # distance between the eyes on the drawing board
_BOARD_PX = (272, 400)  # width, height
_MIDDLE = np.array([136.0, 130.0])  # the point between the eyes
_MOVING = np.s_[70:230, 70:202]  # rows and columns of the board that hold brows, eyes and mouth
_SHIFT = 4  # OpenCV draws at 1/16 px


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What stays the same about one person. Colours (3,) RGB in 0..255; lengths in distances between the eyes."""

    skin: Floats
    hair: Floats
    iris: Floats
    shirt: Floats
    wall: Floats
    width: float
    chin: float
    hair_length: float
    light: float  # -1 from the left .. 1 from the right
    seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Look:
        """A new person."""
        tone = rng.uniform(0, 1)
        skin = (1 - tone) * np.array([236.0, 194, 170]) + tone * np.array([122.0, 82, 60])
        hairs = np.array([[42.0, 32, 28], [96, 64, 40], [118, 84, 48], [58, 56, 58], [110, 52, 30]])
        irises = np.array([[70.0, 48, 34], [64, 92, 120], [74, 96, 60]])
        return cls(
            skin=skin + rng.normal(0, 3, 3),
            hair=hairs[rng.integers(len(hairs))] * rng.uniform(0.7, 1.1),
            iris=irises[rng.integers(len(irises))],
            shirt=rng.uniform(30, 220, 3),
            wall=rng.uniform(90, 215) + rng.uniform(-15, 15, 3),
            width=rng.uniform(1.02, 1.16),
            chin=rng.uniform(1.66, 1.84),
            hair_length=rng.uniform(0.3, 2.4),
            light=rng.uniform(-0.6, 0.6),
            seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """One moment. mouth, brows and lids in 0..1: open, raised, closed; eyes_px: distance between the eyes.

    x_px, y_px: where the point between the eyes is; grain: which piece of the camera's noise lies over the frame.
    """

    mouth: float
    brows: float
    lids: float
    x_px: float
    y_px: float
    eyes_px: float
    tilt_rad: float
    grain: int = 0


class Puppet:
    """One person before one wall, drawn frame by frame."""

    def __init__(self, look: Look, width_px: int = 320, height_px: int = 240) -> None:
        self._look = look
        self._rng = np.random.default_rng(look.seed)
        self._size = (width_px, height_px)
        self._head, self._cover = self._draw_head()
        self._wall = self._draw_wall()
        self._noise = self._rng.normal(0, 2.0, (height_px, width_px, 3)).astype(np.float32)

    def draw(self, pose: Pose) -> Image:
        """The frame, uint8 (H, W, 3) RGB."""
        board = self._head.copy()
        self._draw_eyes(board, pose.lids)
        self._draw_brows(board, pose.brows)
        self._draw_mouth(board, pose.mouth)
        board[_MOVING] = cv2.GaussianBlur(board[_MOVING], (0, 0), 0.8)
        scale, (cos, sin) = pose.eyes_px / _EYES_PX, (np.cos(pose.tilt_rad), np.sin(pose.tilt_rad))
        turn = scale * np.array([[cos, -sin], [sin, cos]])
        matrix = np.column_stack([turn, np.array([pose.x_px, pose.y_px]) - turn @ _MIDDLE])
        face = cv2.warpAffine(board, matrix, self._size)
        cover = cv2.warpAffine(self._cover, matrix, self._size)[..., None]
        frame = face - self._wall
        frame *= cover
        frame += self._wall
        frame += np.roll(self._noise, 61 * pose.grain, axis=1)
        return np.asarray(np.clip(frame, 0, 255, out=frame), np.uint8)

    # ------------------------------------------------------------------------------------------------ what stays

    def _draw_wall(self) -> NDArray[np.float32]:
        width, height = self._size
        y, x = np.mgrid[:height, :width]
        shade = 0.85 + 0.25 * (x / width - 0.5) * self._look.light - 0.15 * y / height
        wall = (shade[..., None] * self._look.wall).astype(np.float32)
        for _ in range(3):
            corner = self._rng.integers(0, [width, height])
            colour = tuple(float(c) for c in self._look.wall * self._rng.uniform(0.6, 1.2))
            cv2.rectangle(wall, corner.tolist(), (corner + self._rng.integers(20, 90, 2)).tolist(), colour, -1)
        return np.asarray(cv2.GaussianBlur(wall, (0, 0), 5), np.float32)

    def _draw_head(self) -> tuple[Image, NDArray[np.float32]]:
        """The board (H, W, 3) with all that does not move, and how much of each pixel it covers (H, W)."""
        look = self._look
        width, height = _BOARD_PX
        board = np.zeros((height, width, 3), np.float32)
        cover = np.zeros((height, width), np.float32)
        grain = cv2.GaussianBlur(self._rng.normal(0, 1, (height, width)), (0, 0), sigmaX=0.7, sigmaY=6)
        hair = look.hair * (1 + 0.5 * grain[..., None])
        middle = (look.chin - 1.05) / 2  # of the head below the eyes
        back = _ellipse(0, -0.1, look.width + 0.22, 1.3)
        if look.hair_length > 1.2:
            back = np.maximum(back, _ellipse(0, look.hair_length / 2, look.width + 0.2, look.hair_length / 2 + 0.4))
        _paint(board, cover, back, hair)
        across, down = _grid()
        chest = np.maximum(_ellipse(0, 3.2, 2.3, 1.05), (np.abs(across) < 2.28) * (down > 3.2))
        _paint(board, cover, chest, look.shirt * self._light(0, 3.4, 2.9, 2.4))
        _paint(board, cover, _ellipse(0, look.chin, 0.55 * look.width, 0.75), look.skin * 0.68)
        for side in (-1, 1):
            _paint(board, cover, _ellipse(side * look.width, 0.18, 0.14, 0.32), look.skin * 0.8)
        _paint(board, cover, self._face(middle), look.skin * self._light(0, middle, look.width * 1.08, 1.6))
        self._model(board)
        cap = _ellipse(0, -0.35, look.width + 0.12, 1.12)
        cap *= 1 - _ellipse(0.1 * look.light, 0.35, look.width * 0.95, 1.2)
        _paint(board, cover, cap * (down < 0.2), hair * self._light(0, -0.4, look.width * 1.3, 1.5))
        return np.clip(board, 0, 255).astype(np.uint8), cover

    def _face(self, middle: float) -> Floats:
        """Skull and jaw in one outline."""
        look = self._look
        skull = _ellipse(0, -0.05, look.width, 1.12)
        jaw = _ellipse(0, middle + 0.2, look.width * 0.9, look.chin - middle - 0.2)
        return np.maximum(skull, jaw)

    def _light(self, x: float, y: float, width: float, height: float) -> Floats:
        """Lambert shading of an ellipsoid, (H, W, 1)."""
        across, down = _grid()
        u, v = (across - x) / width, (down - y) / height
        w = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
        toward = np.array([self._look.light, -0.45, 0.9])
        lit = np.clip((u * toward[0] + v * toward[1] + w * toward[2]) / np.linalg.norm(toward), 0, 1)
        return np.asarray((0.5 + 0.56 * lit)[..., None])

    def _model(self, board: NDArray[np.float32]) -> None:
        """Sockets, cheeks, nose and chin as soft light and shade."""
        side = np.sign(self._look.light) or 1.0
        across, down = _grid()[0][0], _grid()[1][:, 0]
        for x, y, width, height, amount in (
            (-0.5, -0.04, 0.28, 0.17, -0.38), (0.5, -0.04, 0.28, 0.17, -0.38),  # sockets
            (-0.16, -0.02, 0.07, 0.2, -0.16), (0.16, -0.02, 0.07, 0.2, -0.16),  # beside the bridge
            (-0.6, 0.5, 0.25, 0.2, 0.08), (0.6, 0.5, 0.25, 0.2, 0.08),  # cheeks
            (0.0, 0.15, 0.07, 0.34, 0.12), (0.0, 0.46, 0.12, 0.1, 0.12),  # ridge and tip of the nose
            (-0.15 * side, 0.35, 0.07, 0.18, -0.16), (-0.2, 0.52, 0.08, 0.08, -0.25), (0.2, 0.52, 0.08, 0.08, -0.25),
            (0.0, 0.64, 0.2, 0.05, -0.2), (0.0, 0.73, 0.04, 0.08, -0.1),  # under the nose
            (0.0, 1.22, 0.25, 0.06, -0.16), (0.0, 1.42, 0.22, 0.12, 0.08),  # under the lip, chin
            (-0.42, 0.72, 0.05, 0.2, -0.1), (0.42, 0.72, 0.05, 0.2, -0.1),  # folds
        ):  # fmt: skip
            spot = np.outer(np.exp(-(((down - y) / height) ** 2)), np.exp(-(((across - x) / width) ** 2)))
            board *= (1 + amount * spot)[..., None].astype(np.float32)
        for x in (-0.13, 0.13):
            _dot(board, x, 0.555, 0.085, 0.055, self._look.skin * 0.15)

    # ------------------------------------------------------------------------------------------------ what moves

    def _draw_eyes(self, board: Image, lids: float) -> None:
        look = self._look
        open_ = 0.125 * (1 - lids) + 0.012
        for x in (-0.5, 0.5):
            _dot(board, x, 0.0, 0.225, open_ + 0.03, look.skin * 0.55)
            _dot(board, x, 0.005, 0.2, open_, np.array([232.0, 228, 224]))
            if lids < 0.7:
                iris = min(0.115, open_)
                _dot(board, x, 0.0, 0.115, iris, look.iris)
                _dot(board, x, 0.0, 0.06, min(0.06, iris), np.array([12.0, 10, 10]))
                _dot(board, x + 0.04, -0.04, 0.022, 0.022, np.array([250.0, 250, 250]))
            arc = np.linspace(-1, 1, 9)
            lash = np.column_stack([x + 0.23 * arc, 0.01 - (open_ + 0.02) * (1 - arc**2)])
            _line(board, lash, 0.035, look.skin * 0.22)

    def _draw_brows(self, board: Image, raised: float) -> None:
        arc = np.linspace(-1, 1, 9)
        for side in (-1, 1):
            y = -0.3 - 0.2 * raised - 0.07 * (1 - arc**2) + 0.03 * arc
            _line(board, np.column_stack([side * (0.5 + 0.29 * arc), y]), 0.085, self._look.hair * 0.45)

    def _draw_mouth(self, board: Image, open_: float) -> None:
        lip = self._look.skin * np.array([0.8, 0.52, 0.52])
        half, gap = 0.42 - 0.05 * open_, 0.32 * open_
        arc = np.linspace(-1, 1, 17)
        bow = 0.03 * np.exp(-((arc / 0.16) ** 2))
        top = 0.965 - 0.35 * gap * (1 - arc**2)
        bottom = 0.965 + gap * (1 - arc**2)
        across = half * arc
        upper = np.column_stack([across, top - 0.09 * (1 - arc**2) ** 0.8 + bow])
        lower = np.column_stack([across, bottom + 0.11 * (1 - arc**2)])
        _fill(board, np.concatenate([upper, lower[::-1]]), lip)
        inside = np.concatenate([np.column_stack([across, top]), np.column_stack([across, bottom])[::-1]])
        if gap > 0.01:
            _fill(board, inside, np.array([52.0, 18, 20]))
            teeth = np.column_stack([across, np.minimum(top + 0.06, bottom)])[3:-3]
            _fill(
                board, np.concatenate([np.column_stack([across, top])[3:-3], teeth[::-1]]), np.array([225.0, 220, 212])
            )
        _line(board, np.column_stack([across, top]), 0.03, lip * 0.55)


# ---------------------------------------------------------------------------------------------------- strokes


@cache
def _grid() -> tuple[Floats, Floats]:
    """Where each pixel of the board is, in distances between the eyes from the point between them."""
    y, x = np.mgrid[: _BOARD_PX[1], : _BOARD_PX[0]]
    return (x - _MIDDLE[0]) / _EYES_PX, (y - _MIDDLE[1]) / _EYES_PX


def _ellipse(x: float, y: float, width: float, height: float) -> Floats:
    """Cover (H, W) of an ellipse with half axes width and height, its edge about 1.5 px soft."""
    across, down = _grid()
    radius = np.sqrt(((across - x) / width) ** 2 + ((down - y) / height) ** 2)
    return np.asarray(np.clip((1 - radius) * min(width, height) * _EYES_PX / 1.5 + 0.5, 0, 1))


def _paint(board: NDArray[np.float32], cover: NDArray[np.float32], where: Floats, colour: Floats) -> None:
    board += (where[..., None] * (colour - board)).astype(np.float32)
    np.maximum(cover, where, out=cover)


def _points(path: Floats) -> NDArray[np.int32]:
    return np.asarray(np.round((path * _EYES_PX + _MIDDLE) * 2**_SHIFT), np.int32)


def _fill(board: NDArray[np.generic], path: Floats, colour: Floats) -> None:
    cv2.fillPoly(board, [_points(path)], colour.tolist(), cv2.LINE_AA, _SHIFT)


def _line(board: Image, path: Floats, width: float, colour: Floats) -> None:
    thickness = max(1, round(width * _EYES_PX))
    cv2.polylines(board, [_points(path)], False, colour.tolist(), thickness, cv2.LINE_AA, _SHIFT)


def _dot(board: NDArray[np.generic], x: float, y: float, width: float, height: float, colour: Floats) -> None:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    _fill(board, np.column_stack([x + width * np.cos(angle), y + height * np.sin(angle)]), colour)
