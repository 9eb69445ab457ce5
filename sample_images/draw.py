"""Draws every file of this folder: four pictures, four arrays of weights, and a small network.

`python sample_images/draw.py [FOLDER]` rewrites them beside this script, or draws them into FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

LUMINANCE = (0.299, 0.587, 0.114)

# Bright first: indices shown as if they were gray levels would be nearly black, and upside down.
LETTERS = "wsybrdkl"
COLOURS = bytes.fromhex("ffffff 87ceeb ffd640 784820 d63031 145096 181820 3c8ccd")
BOAT = """
ssssssssssssssss
ssssssskssssyyys
ssssssskrrssyyys
sssssswkrrrsyyys
sssssswkrrrrssss
ssssswwkrrrrrsss
sssswwwkrrrrrsss
ssswwwwkrrrrrrss
sswwwwwkrrrrrrss
ssssssskssssssss
sbbbbbbbbbbbbbbs
ssbyybbyybbyybss
lllbbbbbbbbbblll
ddlldddlldddlldd
lddddllddddllddd
dddlldddddlldddd
"""


def grid(width: int, height: int, factor: int) -> tuple[Floats, Floats]:
    """x and y, in pixels, of the centres of factor by factor samples in every pixel."""
    y, x = np.mgrid[: height * factor, : width * factor]
    return (x + 0.5) / factor, (y + 0.5) / factor


def to_bytes(samples: Floats, factor: int) -> NDArray[np.uint8]:
    """The mean of each block of samples: antialiasing that no version of Pillow can change."""
    height, width = samples.shape[0] // factor, samples.shape[1] // factor
    blocks = samples.reshape(height, factor, width, factor, *samples.shape[2:])
    means: Floats = blocks.mean(axis=(1, 3))
    return np.clip(np.rint(means), 0, 255).astype(np.uint8)


def noise(x: Floats, y: Floats) -> Floats:
    """0..1 for every integer cell; a hash, because a generator's stream may change with NumPy."""
    h = np.floor(x).astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= np.floor(y).astype(np.uint32) * np.uint32(0x85EBCA77)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    return ((h >> np.uint32(16)) / 0xFFFF).astype(np.float64)


def polygon(x: Floats, y: Floats, *corners: tuple[float, float]) -> Mask:
    """Inside of a convex polygon whose corners go clockwise on the screen."""
    inside = np.ones(x.shape, dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
    return inside


def box(x: Floats, y: Floats, left: float, top: float, right: float, bottom: float) -> Mask:
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def digit() -> Image.Image:
    """A five in pen strokes of changing width, placed for strokes_2x7x7x1 at stride 7."""
    x, y = grid(28, 28, 8)
    x = x - 0.14 * (14 - y)  # the slant of a right hand
    distance = np.full(x.shape, np.inf)
    t = np.linspace(0, 1, 80)
    ways = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    for points, first, last in (
        ([(10.3, 4.9), (10.2, 7), (9.9, 10), (9.5, 12.6)], 1.2, 1.0),
        ([(9.5, 12.6), (12.5, 9.6), (19, 10), (18.8, 16.4)], 1.0, 1.6),
        ([(18.8, 16.4), (18.6, 23), (13, 25.2), (7.4, 22.6)], 1.6, 0.9),
        ([(10.3, 4.9), (12.5, 5.5), (15.5, 3.9), (18.4, 4.4)], 1.0, 1.4),
    ):
        radii = first + (last - first) * t
        for (px, py), radius in zip(ways @ np.array(points), radii, strict=True):
            np.minimum(distance, np.hypot(x - px, y - py) - radius, out=distance)
    return Image.fromarray(to_bytes(255 * np.clip(0.6 - distance, 0, 1), 8))


def scene() -> Image.Image:
    """A lake in the hills: gradients, sharp edges, and textures both regular and irregular."""
    factor = 4
    x, y = grid(384, 256, factor)
    canvas = np.zeros((*x.shape, 3))

    def paint(where: Floats | Mask, colour: ArrayLike, below: ArrayLike | None = None) -> None:
        """Blend in a colour; with `below`, one that turns into `below` from top to bottom."""
        chosen = where > 0
        rgb = np.asarray(colour, dtype=np.float64)
        if below is not None:
            rows = y[chosen]
            part = (rows - rows.min()) / np.ptp(rows)
            rgb = rgb + (np.asarray(below) - rgb) * part[:, None]
        old = canvas[chosen]
        canvas[chosen] = old + (rgb - old) * where[chosen][:, None]

    paint(y < 256, (28, 92, 190), (255, 255, 255))
    paint(np.clip((y - 40) / 110, 0, 1) * (y < 160), (255, 214, 160))
    sun = np.hypot(x - 292, y - 50)
    paint(0.75 * np.exp(-np.maximum(sun - 17, 0) / 24), (255, 236, 170))
    paint(sun < 17, (255, 252, 226))
    puff = [(70, 38, 26, 9), (92, 30, 20, 11), (112, 40, 26, 8), (205, 62, 24, 6), (228, 58, 20, 7)]
    cloud = sum(np.exp(-(((x - a) / c) ** 2) - ((y - b) / d) ** 2) for a, b, c, d in puff)
    paint(np.clip(2.2 * (cloud - 0.35), 0, 0.95), (255, 255, 255))

    peaks = [0, 40, 62, 84, 135, 190, 212, 226, 262, 300, 322, 350, 384]
    heights = [118, 84, 98, 86, 132, 92, 76, 84, 122, 108, 114, 96, 120]
    ridge = np.interp(x, peaks, heights)
    mountain = y > ridge
    paint(mountain, (120, 128, 160), (176, 172, 176))
    leaning = x - 0.45 * (y - ridge)
    lit = np.interp(leaning + 1, peaks, heights) > np.interp(leaning, peaks, heights)
    paint(mountain & (y < 97 + 5 * np.abs((x / 6) % 2 - 1)), (250, 250, 255))
    paint(0.3 * (mountain & ~lit), (50, 62, 110))
    paint(y > 132 + 7 * np.sin(x / 43 + 0.6), (126, 160, 96), (92, 140, 62))
    ground = y > 158 + 8 * np.sin(x / 61 + 3.4)
    paint(ground, (112, 168, 66), (44, 96, 40))
    blades = noise(x, (y + 5 * noise(x, 0 * x)) / 5)
    paint(0.28 * blades * ground, (24, 66, 20))

    for tree, foot, tall in ((20, 170, 62), (44, 178, 50), (222, 160, 44), (246, 165, 56)):
        paint(box(x, y, tree - 2, foot - 8, tree + 2, foot), (84, 56, 34))
        for tier in range(3):
            top, half = foot - tall + tier * tall * 0.24, tall * (0.15 + 0.07 * tier)
            low = top + tall * 0.4
            corners = ((tree, top), (tree + half, low), (tree - half, low))
            paint(polygon(x, y, *corners), (52, 112, 62), (16, 58, 40))
    crown = np.hypot((x - 338) / 30, (y - 128) / 27) + 0.16 * noise(x / 3, y / 3)
    paint(box(x, y, 334, 140, 342, 182), (96, 64, 40))
    paint(crown < 1, (150, 176, 56), (52, 104, 36))
    paint(0.5 * noise(x / 2, y / 2) * (crown < 1), (30, 78, 24))

    path = polygon(x, y, (105, 179), (119, 179), (146, 224), (98, 224))
    paint(path, (226, 204, 160), (190, 164, 122))
    paint(box(x, y, 134, 76, 145, 104), (150, 74, 58))
    paint(box(x, y, 132, 74, 147, 78), (96, 50, 42))
    wall = box(x, y, 68, 118, 156, 180)
    paint(wall, (250, 238, 208), (232, 212, 172))
    paint(0.3 * (wall & (y % 5 < 0.8)), (120, 96, 70))
    paint(0.35 * box(x, y, 68, 118, 156, 125), (70, 50, 60))
    roof = polygon(x, y, (78, 86), (146, 86), (164, 121), (60, 121))
    course = np.floor(y / 5)
    paint(roof, (196, 70, 50), (164, 46, 38))
    paint(0.35 * noise((x + 4 * (course % 2)) / 8, course) * roof, (70, 14, 24))
    paint(0.5 * (roof & ((y % 5 < 1) | ((x + 4 * (course % 2)) % 8 < 0.8))), (84, 22, 26))
    for left in (75, 127):
        paint(box(x, y, left, 132, left + 22, 156), (255, 255, 255))
        paint(box(x, y, left + 2, 134, left + 20, 154), (48, 84, 128), (150, 200, 226))
        paint(box(x, y, left + 10, 134, left + 12, 154), (255, 255, 255))
        paint(box(x, y, left + 2, 143, left + 20, 145), (255, 255, 255))
    paint(box(x, y, 103, 144, 121, 180), (255, 255, 255))
    paint(box(x, y, 105, 146, 119, 180), (36, 96, 104), (22, 66, 78))
    paint(np.hypot(x - 116, y - 164) < 1.3, (250, 214, 90))

    along = (x - 172) % 11
    right = x >= 172
    paint(right & ((np.abs(y - 187) < 1.5) | (np.abs(y - 199) < 1.5)), (206, 204, 196))
    picket = right & (along < 6) & (y > 178 + 1.3 * np.abs(along - 3)) & (y < 206)
    paint(picket, (255, 255, 252), (226, 224, 216))
    paint(0.3 * (picket & (along > 4.6)), (90, 90, 110))

    shore = 217 + 3 * np.sin(x / 37) + 1.5 * np.sin(x / 11)
    paint(y > shore - 3, (214, 196, 150))
    lake = y > shore
    paint(lake, (112, 176, 204), (18, 62, 112))
    depth = np.sqrt(np.maximum(y - 206, 0))  # waves look longer the nearer they are
    wave = np.sin(15 * depth + 1.2 * np.sin(x / 15 + depth)) - 0.5 * np.sin(x / 8 - 5 * depth)
    paint(0.28 * np.clip(wave, 0, 1) * lake, (226, 242, 250))
    spread = np.exp(-(((x - 292) / (5 + 0.4 * (y - 214))) ** 2))
    paint(lake * spread * np.clip(wave + 0.2, 0, 1) * 0.9, (255, 244, 200))
    paint(0.4 * (np.hypot((x - 214) / 34, (y - 240) / 4) < 1), (8, 30, 60))
    paint(polygon(x, y, (180, 226), (248, 226), (236, 240), (190, 240)), (206, 40, 46), (120, 18, 30))
    paint(polygon(x, y, (180, 226), (248, 226), (246, 229), (182, 229)), (250, 240, 220))
    return Image.fromarray(to_bytes(canvas, factor))


def ramp16() -> Image.Image:
    """No two pixels of the ramp are alike, so 8 bits lose most of it; below, a staircase."""
    levels = np.linspace(0, 65535, 256 * 48).reshape(256, 48).T
    stairs = np.repeat(np.linspace(65535, 0, 8), 32)
    return Image.fromarray(np.rint(np.vstack([levels, np.tile(stairs, (16, 1))])).astype(np.uint16))


def palette() -> Image.Image:
    indices = np.array([[LETTERS.index(letter) for letter in row] for row in BOAT.split()])
    image = Image.fromarray(np.kron(indices, np.ones((4, 4))).astype(np.uint8))
    image.putpalette(COLOURS)
    return image


def weights() -> dict[str, NDArray[np.float32 | np.int64 | np.int16]]:
    """Channels last: (K, kh, kw, C). Filters and biases together keep 0..255 within 0..255."""
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    falling = np.array([[-2, -1, 0], [-1, 0, 1], [0, 1, 2]]) / 8
    smooth = np.outer([1, 2, 1], [1, 2, 1]) / 16
    laplace = np.array([[1, 1, 1], [1, -8, 1], [1, 1, 1]]) / 16
    edges = [
        *(np.multiply.outer(k, LUMINANCE) for k in (across, across.T, falling, falling[::-1])),
        np.multiply.outer(smooth, LUMINANCE),
        np.multiply.outer(laplace, LUMINANCE),
        np.multiply.outer(smooth, (0.5, -0.5, 0)),  # red against green
        np.multiply.outer(smooth, (-0.25, -0.25, 0.5)),  # blue against yellow
    ]
    # The sides cancel the middle: an even patch gives 0, a stroke down the middle 28 times its brightness.
    upright = np.outer(np.ones(7), [-1, -1, 1, 2, 1, -1, -1])
    return {
        "edges_8x3x3x3": np.stack(edges).astype(np.float32),
        "strokes_2x7x7x1": np.stack([upright, upright.T])[..., None].astype(np.int16),
        "sharpen_3x3": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], dtype=np.int64),
        "bias_8": np.where(np.arange(8) == 4, 0, 127.5).astype(np.float32),  # the blur has no sign
    }


def network() -> Any:
    """A network for digits of 28 × 28 bytes, in ONNX: a layer, two branches that meet, and ten numbers."""
    from onnx import TensorProto, helper, numpy_helper

    def numbers(name: str, *shape: int) -> Any:
        """Between -1 and 1, in steps of 1/16."""
        places = np.arange(np.prod(shape)).astype(np.float64)
        values = np.rint(32 * noise(places, np.full(places.shape, len(name)))) / 16 - 1
        return numpy_helper.from_array(values.astype(np.float32).reshape(shape), name)

    weights = [
        *(numbers("first.weight", 8, 1, 5, 5), numbers("first.bias", 8)),
        *(numbers("grouped.weight", 8, 4, 3, 3), numbers("shortcut.weight", 8, 8, 1, 1)),
        *(numbers("digits.weight", 10, 8), numbers("digits.bias", 10)),
    ]
    half = {"strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["image", "first.weight", "first.bias"], ["edges"], "first", pads=[2] * 4),
        helper.make_node("Relu", ["edges"], ["bright"], "relu"),
        helper.make_node(
            "Conv", ["bright", "grouped.weight"], ["a"], "grouped", pads=[1] * 4, group=2, **half
        ),
        helper.make_node("Conv", ["bright", "shortcut.weight"], ["b"], "shortcut", **half),
        helper.make_node("Add", ["a", "b"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "digits.weight", "digits.bias"], ["scores"], "digits", transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "tiny", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (digit, scene, ramp16, palette):
        draw().save(folder / f"{draw.__name__}.png", optimize=True)
    for name, array in weights().items():
        np.save(folder / f"{name}.npy", array)
    (folder / "tiny.onnx").write_bytes(network().SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
