"""The drawn digits, the range of pixels, and data from files."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmat.cli.datasets import open_dataset
from convmat.errors import DTypeError, FileError, ShapeError
from convmat.experiment.digits import SIZE, draw_digits, unit_range
from convmat.experiment.networks import he_uniform
from convmat.files.idx import read_idx_images


def test_digits_are_ink_on_an_empty_page() -> None:
    images = draw_digits(500, 0)
    assert (images.shape, images.dtype) == ((500, SIZE, SIZE, 1), np.uint8)
    assert 0.1 < images.mean() / 255 < 0.17  # MNIST's has 0.13
    assert 0.14 < (images > 0).mean() < 0.24  # and 0.19
    assert images.reshape(500, -1).max(axis=1).min() > 200
    # The outermost pixels are all but empty: nothing is cut off.
    edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert (edges > 0).mean() < 0.005


def test_digits_are_the_seeds() -> None:
    first = draw_digits(64, 3)
    np.testing.assert_array_equal(first, draw_digits(64, 3))
    assert (draw_digits(64, 4) != first).any()
    assert len(np.unique(first.reshape(64, -1), axis=0)) == 64
    assert draw_digits(0, 1).shape == (0, SIZE, SIZE, 1)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([0, 51, 255], "u1"), [0, 0.2, 1]),
        (np.array([0, 13107, 65535], "u2"), [0, 0.2, 1]),
        (np.array([0, 51, 255], "i8"), [0, 0.2, 1]),
        (np.array([False, True]), [0, 1]),
        (np.array([0, 0.5, 1], "f2"), [0, 0.5, 1]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unit_range(pixels: np.ndarray, expected: list[float], dtype: str) -> None:
    found = unit_range(pixels.reshape(1, 1, -1, 1), dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.ravel(), np.array(expected, dtype))


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        ([-1, 3], DTypeError, r"int64 values -1 .. 3; expected 0 .. 255"),
        ([0, 256], DTypeError, r"int64 values 0 .. 256"),
        ([0.0, 255.0], ShapeError, r"values 0 .. 255; scale floats to 0 .. 1"),
        ([0.0, np.nan], ShapeError, "values nan .. nan"),
        ([1j], DTypeError, "complex128; expected real"),
    ],
)
def test_unit_range_refuses(pixels: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        unit_range(np.array(pixels), "float32")


def idx_bytes(images: np.ndarray) -> bytes:
    return b"\0\0\x08\x03" + np.array(images.shape, ">i4").tobytes() + images.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_folder(images: np.ndarray, tmp_path: Path, packed: bool, dot: str) -> None:
    """Both of MNIST's image files, training before test; labels are not looked at."""
    for name, part in (("train", images[:3]), ("t10k", images[3:])):
        data = idx_bytes(part)
        file = tmp_path / f"{name}-images{dot}idx3-ubyte{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(data) if packed else data)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"nonsense")
    np.testing.assert_array_equal(open_dataset(str(tmp_path)).read(), images[..., None])


def test_idx_file_that_is_there_twice_counts_once(images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    assert len(open_dataset(str(tmp_path)).read()) == 5


def test_keras_and_npy(images: np.ndarray, tmp_path: Path) -> None:
    labels = np.arange(5)
    np.savez(tmp_path / "mnist.npz", x_train=images[:3], y_train=labels, x_test=images[3:], y_test=labels)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", images[..., None])
    np.savez(tmp_path / "c.npz", images=images)
    for name in ("mnist.npz", "a.npy", "b.npy", "c.npz:images"):
        np.testing.assert_array_equal(open_dataset(str(tmp_path / name)).read(), images[..., None])


def test_folder_of_images(tmp_path: Path) -> None:
    pixels = np.arange(3 * 5 * 7 * 3, dtype=np.uint8).reshape(3, 5, 7, 3)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    np.testing.assert_array_equal(open_dataset(str(tmp_path)).read(), pixels)
    Image.new("RGB", (4, 4)).save(tmp_path / "3.png")
    with pytest.raises(ShapeError, match=r"3.png: is 4 × 4 × 3 uint8, the others are 5 × 7 × 3"):
        open_dataset(str(tmp_path)).read()


def test_data_that_is_none(images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "flat.npy", images.reshape(5, -1))
    np.savez(tmp_path / "other.npz", a=images, b=images)
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    for name, message in {
        "empty": "has no images and no IDX files",
        "absent": "cannot be read: No such file",
        "flat.npy": r"has shape \(5, 24\); expected images of one size",
        "other.npz": "has neither x_train nor x_test",
        "bad.npz": "is no .npz archive",
    }.items():
        with pytest.raises((FileError, ShapeError), match=message):
            open_dataset(str(tmp_path / name)).read()


def test_damaged_idx(images: np.ndarray, tmp_path: Path) -> None:
    whole = idx_bytes(images)
    packed = gzip.compress(whole)
    cases = {
        "a": (whole[:-1], "truncated: .* are 120 bytes, got 119"),
        "b": (whole + b"x", "too long"),
        "c": (whole[:10], "no IDX file of images"),
        "d": (b"\0\0\x08\x01" + whole[4:], "no IDX file of images"),
        "e.gz": (packed[:-9], "damaged .gz"),
        "f.gz": (whole, "damaged .gz"),
        "g.gz": (packed[:12] + b"\xff\xff" + packed[14:], "damaged .gz"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileError, match=message):
            read_idx_images(str(tmp_path / name))


def test_no_more_is_unpacked_than_the_header_says(tmp_path: Path) -> None:
    """One image, and 64 MB behind it; a header that claims all there could be."""
    name, header = str(tmp_path / "bomb.gz"), b"\0\0\x08\x03" + np.array((1, 28, 28), ">i4").tobytes()
    with gzip.open(name, "wb", 1) as stream:
        stream.write(header)
        for _ in range(64):
            stream.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(
            FileError, match=r"too long: \(1, 28, 28\) uint8 images are 784 bytes, got 785 or"
        ):
            read_idx_images(name)
        (tmp_path / "huge").write_bytes(header[:4] + b"\xff" * 12 + bytes(100))
        with pytest.raises(
            FileError, match=r"truncated: \(4294967295, 4294967295, 4294967295\) .*, got 100;"
        ):
            read_idx_images(str(tmp_path / "huge"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_headers_are_read_before_data(images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(images)[:-1])
    found = open_dataset(str(tmp_path))
    assert (found.shape, found.dtype, found.nbytes) == ((10, 6, 4, 1), np.uint8, 240)
    with pytest.raises(FileError, match="t10k-images-idx3-ubyte: truncated"):
        found.read()


def test_a_folder_of_too_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmat.cli.datasets._MOST_PICTURES", 5)
    for number in range(6):
        (tmp_path / f"{number}.txt").touch()
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(FileError, match=r"has more than 5 images; save them as one \.npy array"):
        open_dataset(str(tmp_path))


def test_drawn_digits_and_weights_are_those_of_one_draw() -> None:
    """What is computed in blocks has the bits of the whole."""
    assert zlib.crc32(draw_digits(3000, 0)) == 3301559780
    shape = (5000, 785)
    whole = (2 * np.random.default_rng(3).random(shape, np.float32) - 1) * np.float32(np.sqrt(6 / shape[0]))
    np.testing.assert_array_equal(he_uniform(shape, np.random.default_rng(3), "float32"), whole)
