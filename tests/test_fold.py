"""fold: every element back in its pixel, whatever the dtype, blocks, threads and memory; and the command."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import convmat as cm
from convmat import folding, reference
from convmat.cli import run
from convmat.errors import ConvmatError, DTypeError, GeometryError, IntegerRangeError, ShapeError
from convmat.sizes import coverage, uncovered_lines
from tests.levels import at_each_level
from tests.strategies import (
    DTYPES,
    INTEGERS,
    Layer,
    assert_same_bits,
    disguises,
    frozen,
    layers,
    noise,
    probes,
)
from tests.tools import shell

pytestmark = pytest.mark.usefixtures("level")

ORDERS = ("hwc", "chw")
zero_padded = layers(modes=("zeros",))


def rng() -> np.random.Generator:
    return np.random.default_rng(2017)


def geometry_of(layer: Layer) -> cm.ConvGeometry:
    return cm.ConvGeometry(layer.shape, layer.kernel, **layer.where)


def covered(layer: Layer) -> np.ndarray:
    """Which pixels a patch holds."""
    found = np.ones(layer.shape, bool)
    for axis, lines in enumerate(layer.lines, 1):
        seen = np.isin(np.arange(layer.shape[axis]), [p for patch in lines for p in patch if p is not None])
        found &= np.expand_dims(seen, [a for a in range(found.ndim) if a != axis])
    return found


# Sums.


@at_each_level
@given(zero_padded, st.sampled_from(ORDERS), st.sampled_from(["i4", "f4", "c16"]))
def test_a_sum_is_that_of_the_mapping(layer: Layer, order: str, dtype: str) -> None:
    """By Eq. 8 alone, as `input_index` has it."""
    g = geometry_of(layer)
    p = probes(dtype, rng())(g.matrix_shape)
    wanted = np.zeros(layer.shape, np.result_type(dtype, np.int64))
    for row, col in np.ndindex(*g.matrix_shape):
        element = g.input_index(row, col, order=order)
        if element is not None:
            wanted[element] += p[row, col]
    np.testing.assert_array_equal(cm.fold(p, layer.shape, layer.kernel, **layer.where, order=order), wanted)
    np.testing.assert_array_equal(
        reference.fold(p, layer.shape, layer.kernel, **layer.where, order=order), wanted
    )


@at_each_level
@given(zero_padded, st.sampled_from(ORDERS))
def test_the_adjoint_of_unroll(layer: Layer, order: str) -> None:
    """⟨unroll x, p⟩ = ⟨x, fold p⟩, exactly."""
    make = probes("i8", rng())
    x, p = make(layer.shape), make(geometry_of(layer).matrix_shape)
    unrolled = cm.unroll(x, layer.kernel, **layer.where, order=order)
    folded = cm.fold(p, layer.shape, layer.kernel, **layer.where, order=order)
    assert np.vdot(unrolled, p) == np.vdot(x, folded)


@at_each_level
@given(zero_padded, st.sampled_from(DTYPES), disguises, st.sampled_from(["sum", "mean"]))
def test_blocks_threads_and_memory_do_not_show(
    layer: Layer, dtype: str, disguise: Callable[[np.ndarray], np.ndarray], overlap: str
) -> None:
    p = noise(dtype, rng())(geometry_of(layer).matrix_shape)

    def fold(p: np.ndarray, threads: int) -> np.ndarray:
        return cm.fold(p, layer.shape, layer.kernel, **layer.where, overlap=overlap, threads=threads)

    one = fold(p, 1)
    assert_same_bits(fold(frozen(disguise(p)), 3), one)
    g = geometry_of(layer)
    streamed = [a.copy() for a in folding.fold_stream([p], p.dtype, g, overlap, threads=2, block_bytes=1)]
    joined = np.concatenate([one[:0].reshape(-1, *one.shape[2:]), *streamed])
    assert_same_bits(joined.reshape(one.shape).astype(one.dtype), one)  # joined, in native byte order


@pytest.mark.parametrize("cuts", [[], [1], [0, 3, 4, 20, 20]])
def test_parts_of_any_length(cuts: list[int]) -> None:
    g = cm.ConvGeometry((2, 6, 5, 2), (3, 2), padding=1, stride=(2, 1))
    p = probes("f8", rng())(g.matrix_shape)
    wanted = reference.fold(p, g.input_shape, (3, 2), padding=1, stride=(2, 1))
    for order in ORDERS:
        x_col = np.ascontiguousarray(
            p.reshape(len(p), 6, 2).transpose(0, 2, 1).reshape(p.shape) if order == "chw" else p
        )
        stream = folding.fold_stream(np.split(x_col, cuts), p.dtype, g, order=order, threads=2, block_bytes=1)
        lines = [part.copy() for part in stream]
        assert len(lines) == 4
        np.testing.assert_array_equal(np.concatenate(lines).reshape(wanted.shape), wanted)


def test_a_stream_of_no_images_is_empty() -> None:
    g = cm.ConvGeometry((0, 5, 3), 2)
    assert list(folding.fold_stream([], np.dtype("f4"), g)) == []
    for overlap in folding.OVERLAPS:
        empty = cm.fold(np.empty((0, 6), ">f4"), (0, 5, 3), 2, overlap=overlap)
        assert (empty.shape, empty.dtype) == ((0, 5, 3), np.dtype("f4"))


def test_by_hand() -> None:
    """Two patches of three pixels, two apart, meet in one pixel."""
    p = np.array([[1, 2, 3], [10, 20, 30]])
    np.testing.assert_array_equal(cm.fold(p, (1, 6, 1), 3, 2).ravel(), [1, 2, 13, 20, 30, 0])
    mean = cm.fold(p, (1, 6, 1), 3, 2, overlap="mean")
    np.testing.assert_array_equal(mean.ravel(), [1, 2, 6.5, 20, 30, 0])


def test_a_matrix_for_each_image() -> None:
    x_col = cm.unroll(np.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3), 3)
    np.testing.assert_array_equal(
        cm.fold(x_col.reshape(2, 6, 27), (2, 5, 4, 3), 3), cm.fold(x_col, (2, 5, 4, 3), 3)
    )


# Means.


def awkward(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers that rounding, overflow or NaN would show in."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng().integers(0, 2, shape).astype(kind)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        high = min(info.max, 2**53 // 64)
        values = np.array([0, 1, max(info.min, -high), high, high - 1, 3], kind)
        return rng().choice(values, shape)
    info = np.finfo(kind)
    values = [
        0.1,
        1 / 3,
        -7.7,
        np.pi,
        float(info.smallest_subnormal),
        float(info.tiny),
        np.inf,
        -np.inf,
        np.nan,
    ]
    found = rng().choice(np.array(values, kind.newbyteorder("=")), shape).astype(kind)
    if kind.kind == "c":
        found.imag = rng().choice(np.array(values, found.real.dtype), shape)
    return found


@at_each_level
@given(zero_padded, st.sampled_from(DTYPES), st.sampled_from(ORDERS), st.sampled_from([1, 3]))
def test_a_mean_is_the_inverse_where_a_patch_covers(
    layer: Layer, dtype: str, order: str, threads: int
) -> None:
    x = awkward(layer.shape, dtype)
    x_col = cm.unroll(x, layer.kernel, **layer.where, order=order)
    where: dict[str, Any] = layer.where | {"overlap": "mean", "order": order, "threads": threads}
    back = cm.fold(x_col, layer.shape, layer.kernel, **where)
    seen = covered(layer)
    np.testing.assert_array_equal(back[seen], x[seen])
    assert not back[~seen].any()
    assert (
        np.count_nonzero(~seen) == layer.shape[0] * layer.shape[-1] * coverage(geometry_of(layer)).uncovered
    )


@pytest.mark.parametrize("dtype", ["f8", "c16", "f4", "f2"])
def test_a_mean_of_the_largest_numbers(dtype: str) -> None:
    """Sums that leave the dtype must not reach the mean."""
    largest = np.full((1, 9, 9, 1), np.finfo(dtype).max, dtype)
    if dtype == "c16":
        largest.imag = -np.finfo(dtype).max
    back = cm.fold(cm.unroll(largest, 3), largest.shape, 3, overlap="mean")
    np.testing.assert_array_equal(back, largest)


@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_a_mean_of_numbers_that_thirds_cannot_hold(dtype: str) -> None:
    x = rng().standard_normal((2, 40, 41, 3)).astype(dtype) * 1e10
    if dtype == "c16":
        x.imag = rng().standard_normal(x.shape)
    for k in (3, (5, 7)):
        assert_same_bits(cm.fold(cm.unroll(x, k), x.shape, k, overlap="mean"), x)


# dtypes.


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_dtype_comes_out(dtype: str) -> None:
    kind = np.dtype(dtype)
    x = awkward((2, 6, 6, 3), dtype)
    for order in ORDERS:
        apart = cm.fold(cm.unroll(x, 2, 2, order=order), x.shape, 2, 2, order=order)
        assert_same_bits(apart, x)
        assert_same_bits(cm.fold(cm.unroll(x, 2, 2), x.shape, 2, 2, overlap="mean"), x)
    native = kind.newbyteorder("=")
    x_col = cm.unroll(np.zeros((1, 4, 4, 1), dtype), 3)
    integers = dtype in INTEGERS
    assert cm.fold(x_col, (1, 4, 4, 1), 3).dtype == (np.int64 if integers else native)
    assert cm.fold(x_col, (1, 4, 4, 1), 3, overlap="mean").dtype == (np.float64 if integers else native)


def test_strides_past_the_kernel_leave_zeros() -> None:
    x = np.arange(1, 8 * 9 + 1, dtype="u1").reshape(1, 8, 9, 1)
    back = cm.fold(cm.unroll(x, 2, (3, 4)), x.shape, 2, (3, 4))
    rows, columns = [0, 1, 3, 4, 6, 7], [0, 1, 4, 5]
    wanted = np.zeros_like(x)
    wanted[np.ix_([0], rows, columns)] = x[np.ix_([0], rows, columns)]
    assert_same_bits(back, wanted)


def test_float16_is_summed_in_float32() -> None:
    p = np.full((300, 300), 0.1, "f2")
    assert cm.fold(p, (1, 599, 1), 300)[0, 299, 0] == np.float16(300 * float(np.float16(0.1)))


@pytest.mark.parametrize("dtype, value", [("u8", 2**62), ("i8", -(2**62)), ("u8", 2**64 - 1)])
def test_integers_whose_sums_could_pass_int64(dtype: str, value: int) -> None:
    p = np.array([[0, 0], [value, 0]], dtype)
    with pytest.raises(IntegerRangeError, match=r"^x_col: sums of 2 integers could reach .*, int64 ends at"):
        cm.fold(p, (1, 3, 1), 2)
    # Where none meet they are only moved.
    assert cm.fold(p, (1, 4, 1), 2, 2)[0, 2, 0] == value


@pytest.mark.parametrize("dtype", ["u8", "i8", ">u8"])
def test_the_largest_sums_that_int64_holds(dtype: str) -> None:
    p = np.full((2, 2), 2**62 - 1, dtype)
    folded = cm.fold(p, (1, 3, 1), 2)
    assert (folded.dtype, folded.ravel().tolist()) == (np.int64, [2**62 - 1, 2**63 - 2, 2**62 - 1])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda p: cm.fold(p, (1, 6, 2), 2),
            ShapeError,
            r"^x_col: has shape \(4, 6\), an input of .* \(5, 4\)",
        ),
        (lambda p: cm.fold(p.ravel(), (1, 5, 3), 2), ShapeError, r"^x_col: has shape \(24,\)"),
        (lambda p: cm.fold(p.reshape(2, 2, 6), (1, 5, 3), 2), ShapeError, r"^x_col: has shape \(2, 2, 6\)"),
        (lambda p: cm.fold(p, (1, 5, 3), 6), GeometryError, r"^kernel_size: the kernel spans 6 pixels"),
        (lambda p: cm.fold(p, (5, 3), 2), GeometryError, r"^input_shape: \(5, 3\) has 2 axes"),
        (
            lambda p: cm.fold(p, (1, 5, 3), 2, overlap="max"),
            GeometryError,
            r"^overlap: unknown 'max'; .*sum, mean",
        ),
        (lambda p: cm.fold(p, (1, 5, 3), 2, order="cwh"), GeometryError, r"^order: unknown 'cwh'"),
        (
            lambda p: cm.fold(p, (1, 5, 3), 2, threads=0),
            GeometryError,
            r"^threads: must be 1 to 1024, got 0;",
        ),
        (lambda p: cm.fold(p.astype(object), (1, 5, 3), 2), DTypeError, r"^x_col: has dtype object;"),
    ],
)
def test_refused(call: Callable[[np.ndarray], Any], error: type[ConvmatError], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.zeros((4, 6), int))


def test_the_input_is_not_written_to_and_not_shared() -> None:
    p = frozen(np.arange(12.0).reshape(6, 2))
    folded = cm.fold(p, (1, 6, 2), 1)
    assert not np.shares_memory(folded, p)
    np.testing.assert_array_equal(folded.reshape(6, 2), p)


def test_beside_torch() -> None:
    torch = pytest.importorskip("torch")
    where = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    g = cm.ConvGeometry((2, 10, 9, 3), (2, 3), **where)
    p = rng().integers(-9, 9, (2, 18, g.patches)).astype("f4")
    wanted = torch.nn.functional.fold(torch.from_numpy(p), (10, 9), (2, 3), **where).numpy()
    found = cm.fold(p.transpose(0, 2, 1), (2, 10, 9, 3), (2, 3), **where, order="chw")
    np.testing.assert_array_equal(np.moveaxis(found, -1, 1), wanted)


# Which pixels are never covered.


@at_each_level
@given(zero_padded)
def test_uncovered_lines_are_those_that_no_patch_reaches(layer: Layer) -> None:
    for axis, (runs, lines) in enumerate(zip(uncovered_lines(geometry_of(layer)), layer.lines, strict=True)):
        seen = {pixel for patch in lines for pixel in patch}
        assert [p for run in runs for p in run] == [p for p in range(layer.shape[1 + axis]) if p not in seen]
        assert all(a.stop < b.start for a, b in itertools.pairwise(runs))


# The command.


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("shape", ["7,8,3", "2,7,8,3"])
def test_the_command_gives_what_the_library_gives(
    layout: str, order: str, per_image: bool, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rng().integers(0, 99, (2, 7, 8, 3))
    x_col = cm.unroll(x, (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), order=order)
    np.save("x.npy", x_col.reshape(2, -1, 18) if per_image else x_col)
    sizes = shape.split(",")
    if layout == "nchw":
        sizes = [*sizes[:-3], "3", "7", "8"]
    options = ["-k", "3,2", "-s", "2,1", "-p", "1,0,2,1", "-d", "1,2"]
    options += ["--order", order, "--layout", layout, "--input-shape", ",".join(sizes)]
    for overlap in folding.OVERLAPS:
        assert run(["fold", "x.npy", *options, "--overlap", overlap, "-q", "-o", "y.npy"]) == 0
        wanted = cm.fold(
            x_col, x.shape, (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), overlap=overlap, order=order
        )
        assert_same_bits(np.load("y.npy"), np.moveaxis(wanted, -1, 1).copy() if layout == "nchw" else wanted)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("samples")
def test_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.ones((36, 9), "u1"))
    command = ["fold", "x.npy", "--input-shape", "28,28", "-k", "3", "-s", "5"]
    assert run([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "input": ["x.npy"],
        "input_shape": [1, 28, 28, 1],
        "kernel_size": [3, 3],
        "stride": [5, 5],
        "dilation": [1, 1],
        "padding": "valid",
        "padding_mode": "zeros",
        "pads": [[0, 0], [0, 0]],
        "output_depth": None,
        "output_height": 6,
        "output_width": 6,
        "output_size": [6, 6],
        "matrix_shape": [36, 9],
        "order": "hwc",
        "overlap": "sum",
        "repeats": 324 / 784,
        "uncovered": 784 - 324,
        "uncovered_lines": [[[3, 4], [8, 9], [13, 14], [18, 19], [23, 24]]] * 2,
        "layout": "nhwc",
        "output_shape": [1, 28, 28, 1],
        "dtype": "uint8",
        "range": [0, 1],
        "picture": None,
        "figure": None,
    }
    assert err == (
        "convmat: warning: 460 pixels of each image are in no patch and became 0: "
        "rows 3..4, 8..9, 13..14, … 23..24; columns 3..4, 8..9, 13..14, … 23..24\n"
    )
    assert run(command) == 0
    assert "460 of 784: rows 3..4, 8..9, 13..14, … 23..24;" in capsys.readouterr().out
    assert run([*command, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("samples")
def test_one_and_three_axes(capsys: pytest.CaptureFixture[str]) -> None:
    for shape, dims in (((2, 9, 3), "1"), ((2, 4, 5, 3, 2), "3")):
        x = rng().integers(0, 99, shape)
        np.save("x.npy", cm.unroll(x, 2, padding="same"))
        sizes = ",".join(map(str, shape[1:]))
        command = f"fold x.npy --input-shape {sizes} --dims {dims} -k 2 -p same --overlap mean -q -o y.npy"
        assert run(command.split()) == 0
        np.testing.assert_array_equal(np.load("y.npy"), x)


@pytest.mark.usefixtures("samples")
def test_pictures() -> None:
    for name, shape in (("digit", "28,28"), ("scene", "256,384,3")):
        source = f"sample_images/{name}.png"
        assert run(["unroll", source, "-k", "3", "-p", "same", "-q", "-o", "x.npy"]) == 0
        options = ["--input-shape", shape, "-k", "3", "-p", "same", "--overlap", "mean", "-q"]
        assert run(["fold", "x.npy", *options, "-o", "back.png"]) == 0
        np.testing.assert_array_equal(np.asarray(Image.open("back.png")), np.asarray(Image.open(source)))


@pytest.mark.usefixtures("samples")
def test_no_images_are_a_batch_too() -> None:
    np.save("x.npy", np.zeros((0, 9)))
    for shape in ("6,5", "0,6,5,1"):
        assert run(["fold", "x.npy", "--input-shape", shape, "-k", "3", "-q", "-o", "y.npy"]) == 0
        assert np.load("y.npy").shape == (0, 6, 5, 1)


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            "--input-shape 28,28 -k 7",
            r"x\.npy: has shape \(16, 49\), an input of \(1, 28, 28, 1\) is unrolled to",
        ),
        ("--input-shape 3,28,28,1 -k 7 -s 7", r"x\.npy: has shape \(16, 49\), an input of \(3, 28, 28, 1\)"),
        ("--input-shape 28,28,2 -k 7 -s 7", r"x\.npy: has shape \(16, 49\), .* \(16, 98\)"),
        ("--input-shape 28 -k 7 -s 7", r"--input-shape: has 1 axes \(28,\); .*; see --dims and --layout"),
        ("--input-shape 28,0 -k 7 -s 7", r"--input-shape: \(1, 28, 0, 1\) is empty"),
        ("--input-shape 5,5 -k 7 -s 7", r"--k: the kernel spans 7 pixels of height"),
        ("--input-shape 28,28 -k 7 -s 0", r"--stride: must be at least 1"),
        ("--input-shape x -k 7", r"Invalid value for '--input-shape'"),
        ("-k 7", r"Missing option '--input-shape'.*; see 'convmat fold --help'"),
        ("--input-shape 28,28", r"Missing option '--k'"),
        ("--input-shape 28,28 -k 7 -s 7 --overlap max", r"Invalid value for '--overlap'"),
        ("--input-shape 28,28 -k 7 -s 7 --padding-mode zeros", r"No such option.*--padding-mode"),
        ("--input-shape 4,4,49 -k 1 -o y.png", r"--output: has shape \(1, 4, 4, 49\), a picture shows"),
        ("--input-shape 28,28 -k 7 -s 7 -o no/y.npy", r"no/y\.npy: cannot be written: No such file"),
    ],
)
def test_trouble_is_one_line(options: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.zeros((16, 49)))
    assert run(["fold", "x.npy", *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"convmat: .*{told}.*\n", err), err
    assert sorted(os.listdir()) == ["sample_images", "x.npy"]


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    ("script", "status", "told"),
    [
        ("cut", 2, r"standard input: truncated: .*"),
        ("long", 2, r"standard input: too long: .*"),
        ("empty", 2, r"standard input: is empty; expected an \.npy array"),
        ("integers", 2, r"standard input: sums of 9 integers could reach .*|X: sums of 9 integers .*"),
    ],
)
def test_bad_pipes(script: str, status: int, told: str) -> None:
    np.save("x.npy", np.full((16, 9), 2**61))
    content = Path("x.npy").read_bytes()
    Path("in").write_bytes(
        {"cut": content[:-8], "long": content + b"\0", "empty": b"", "integers": content}[script]
    )
    if script != "integers":
        Path("in").write_bytes(Path("in").read_bytes().replace(np.int64(2**61).tobytes(), bytes(8)))
    end, out, err = shell("cat in | convmat fold - --input-shape 6,6 -k 3 -q -o y.npy")
    assert (end, out) == (status, "")
    assert re.fullmatch(rf"convmat: (?:{told})\n", err), err
    assert not Path("y.npy").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("samples")
def test_there_and_back_by_pipes() -> None:
    status, out, err = shell(
        "convmat unroll sample_images/scene.png --k 7 --stride 3 -p full -q -o - | "
        "convmat fold - --input-shape 256,384,3 --k 7 --stride 3 -p full --overlap mean -q -o - > y.npy && "
        "convmat unroll sample_images/scene.png --k 5 --order chw --per-image -q -o - | "
        "convmat fold - --input-shape 256,384,3 --k 5 --order chw --overlap mean -o - 2> table > z.npy"
    )
    assert (status, out, err) == (0, "", "")
    pixels = np.asarray(Image.open("sample_images/scene.png"))[None]
    for name in ("y.npy", "z.npy"):
        np.testing.assert_array_equal(np.load(name), pixels)
    wanted = "folded 1 × 256 × 384 × 3, float64, on standard output\n"
    assert Path("table").read_text(encoding="utf-8") == wanted


@pytest.mark.usefixtures("samples")
def test_a_reader_that_leaves_is_no_trouble() -> None:
    np.save("x.npy", np.zeros((600 * 600, 9)))
    fold = "convmat fold x.npy --input-shape 602,602 --k 3 -q -o -"
    status, _, err = shell(f"set -o pipefail; {fold} | head -c 1000 > /dev/null")
    assert (status, err) == (141, "")


PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
@pytest.mark.parametrize("how", ["pipe", "file", "per image"])
def test_memory_stays_small_whatever_the_batch(how: str, folder: Path) -> None:
    """71 MB of X_col an image; the process needs 46 MB for itself and a few lines."""
    images, size, k = 2, 850, 5
    rows = (size - k + 1) ** 2
    shape = (images, rows, k * k) if how == "per image" else (images * rows, k * k)
    with open("x.npy", "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + math.prod(shape) * 4)
    name = "-" if how == "pipe" else "x.npy"
    code = (
        "from convmat.cli import run; "
        f"status = run('fold {name} --input-shape {size},{size} -k {k} -q -o /dev/null'.split());"
        "print(status, open('/proc/self/status').read())"
    )
    with open("x.npy", "rb") as stream:
        cat: Any = subprocess.Popen(["cat"], stdin=stream, stdout=subprocess.PIPE) if how == "pipe" else None
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=cat and cat.stdout, capture_output=True, text=True
        )
        if cat:
            cat.stdout.close()
            cat.wait()
    assert done.stdout.startswith("0 "), done.stderr
    assert int(PEAK.findall(done.stdout)[0]) < 100_000
