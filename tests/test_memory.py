"""Memory: shapes before bytes, nothing held that need not be, and what is asked for is what is taken."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import convmat as cm
from convmat.cli import run
from convmat.errors import FileError
from convmat.files.images import ImageInput
from convmat.files.npy import NpyInput
from convmat.verification import judge, stages
from tests import memory
from tests.strategies import DTYPES, Layer, layers, probes

pytestmark = pytest.mark.usefixtures("folder")

MB = 1 << 20


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What a work returns, and the bytes that Python and NumPy took for it at most."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Verification, in parts.


@given(layers(), st.sampled_from(DTYPES), st.sampled_from([1, 7]))
def test_a_verdict_is_the_same_in_any_parts(layer: Layer, dtype: str, elements: int) -> None:
    x, filters, options = layer.arrays(probes(dtype, np.random.default_rng(2017)))
    y = cm.convolve(x, filters, **options)
    y.reshape(-1)[::3] += y.dtype.type(1)
    whole = cm.verify(x, filters, y, **options)
    with mock.patch.object(judge, "BAND", elements):
        assert cm.verify(x, filters, y, **options) == whole


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_verify_holds_little_beside_the_input_and_the_result(dtype: str) -> None:
    """Also of one large image, and of many small ones, of which one line of Y is too much to hold."""
    kernel = np.ones((1, 3, 3, 1), dtype)
    for shape, stride in (((1, 4000, 4000, 1), 20), ((4000, 3, 1000, 1), 1)):
        x = np.zeros(shape, dtype)
        report, peak = peak_of(lambda x=x, stride=stride: cm.verify(x, kernel, stride=stride))
        y_bytes = report.elements * (8 if dtype == "u1" else 4)
        assert report
        assert peak - y_bytes < 40 * MB


def test_unrolled_images_are_judged_in_parts() -> None:
    x = np.zeros((1, 1000, 1000, 1), np.float32)
    report, peak = peak_of(lambda: stages.verify_unroll(x, 3))
    assert report
    assert peak < 9 * x.nbytes + 40 * MB


# Shapes before bytes.


def zeros(name: str, shape: tuple[int, ...], dtype: str = "f4") -> None:
    np.savez_compressed(name, np.broadcast_to(np.zeros((), dtype), shape))


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("convolve x.npy --kernel zeros.npz", 2, "filters: have 2 axes|filters: .*|kernel_size: .*"),
        ("convolve x.npy --kernel box:3 --bias zeros.npz", 2, r"bias: has shape \(4096, 4096\), 1 filters"),
        ("convolve x.npy --kernel box:3 --transpose --bias zeros.npz", 2, "bias: has shape"),
        ("matmul x.npy zeros.npz", 2, "x_col: has shape"),
        ("verify x.npy --kernel box:3 --expected zeros.npz", 1, ""),
        ("verify x.npy --k 3 --stage unroll --expected zeros.npz", 1, ""),
        ("verify x.npy --k 3 --kernel box:3 --stage matrix --expected zeros.npz", 2, ""),
        ("verify --stage flatten-filters --kernel box:3 --expected zeros.npz", 1, ""),
        ("verify --stage fold cols.npy --k 1 --input-shape 8,8 --expected zeros.npz", 1, ""),
        ("verify --stage fold zeros.npz --k 3 --input-shape 8,8", 2, "x_col: has shape"),
        ("compare x.npy zeros.npz", 1, ""),
    ],
)
def test_what_cannot_fit_is_not_read(
    command: str, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """64 MB of zeros in 64 KB: of another shape than is wanted."""
    np.save("x.npy", np.ones((8, 8), np.float32))
    np.save("cols.npy", np.ones((64, 1), np.float32))
    zeros("zeros.npz", (4096, 4096))
    run(command.split())  # all that is imported is there now
    capsys.readouterr()
    found, peak = peak_of(lambda: run(command.split()))
    assert found == status
    assert peak < 8 * MB
    if told:
        assert capsys.readouterr().err.startswith("convmat: ")


class Endless(io.BufferedIOBase):
    """An .npy header, and zeros without an end; it counts them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        head = io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, header)
        self.head, self.count = head.getvalue(), 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        part, self.head = self.head[:size], self.head[size:]
        self.count += 0 if part else size
        return part or bytes(size)

    read1 = read


def test_a_pipe_is_read_no_further_than_its_header_says() -> None:
    endless = Endless((3000, 1000))
    source = NpyInput("-", endless)
    with pytest.raises(FileError, match=r"too long: .* got 12000001 or more"):
        source.read()
    assert endless.count == 12_000_001


# Pictures.


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save("a.png", exif=exif)
    with Image.open("a.png") as image:
        np.testing.assert_array_equal(ImageInput("a.png").read(), ImageOps.exif_transpose(image))


def jpeg(**options: Any) -> bytes:
    y, x = np.mgrid[:200, :300]
    stream = io.BytesIO()
    Image.fromarray(((3 * y + 5 * x) // 4 % 256).astype(np.uint8)).convert("RGB").save(
        stream, "JPEG", **options
    )
    return stream.getvalue()


KINDS = [
    {},
    {"progressive": True},
    {"optimize": True, "subsampling": 0},
    {"restart_marker_blocks": 7},
    {"restart_marker_rows": 1, "progressive": True},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_jpeg_is_read_if_it_is_whole(options: dict[str, Any]) -> None:
    """libjpeg fills with gray what is missing; with an end put behind it, it is no shorter for Pillow."""
    whole = jpeg(**options)
    for data in (whole, whole[:-2] + b"extraneous\xff\xd9"):
        with open("a.jpg", "wb") as stream:
            stream.write(data)
        with Image.open("a.jpg") as image:
            np.testing.assert_array_equal(ImageInput("a.jpg").read(), image)
    begin = whole.index(b"\xff\xda") + 14
    for share in (0.01, 0.3, 0.7):
        with open("a.jpg", "wb") as stream:
            stream.write(whole[: begin + int(share * (len(whole) - begin))].rstrip(b"\xff") + b"\xff\xd9")
        with pytest.raises(FileError, match=r"^a\.jpg: is a damaged image: it"):
            ImageInput("a.jpg").read()


def test_a_jpeg_is_not_decoded_that_claims_more_than_its_bytes_can_hold() -> None:
    data = bytearray(jpeg(quality=5))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (9400).to_bytes(2, "big") * 2
    with open("a.jpg", "wb") as stream:
        stream.write(data)
    with (
        mock.patch.object(Image.Image, "crop", side_effect=AssertionError("decoded")),
        pytest.raises(FileError, match=r"its picture takes \d+ bytes at least, got \d+$"),
    ):
        ImageInput("a.jpg").read()


# What is asked for.


@pytest.mark.slow
@pytest.mark.parametrize("name", memory.COMMANDS)
def test_what_is_asked_for_is_what_is_taken(name: str) -> None:
    with memory.inputs(800) as folder:
        found = memory.measure(memory.COMMANDS[name], 800, folder)
    assert found.ratio <= 1.2, found
