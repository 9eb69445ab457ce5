"""Transposed convolution: adjoint of `convolve`, fold of Y · W_colᵀ, the matrix transposed; the command."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import convmat as cm
from convmat import reference
from convmat.cli import run
from convmat.errors import ConvmatError, DTypeError, GeometryError, IntegerRangeError, ShapeError
from tests.levels import at_each_level
from tests.strategies import DTYPES, RULES, Layer, assert_same_bits, disguises, frozen, layers, noise, probes
from tests.tools import BIAS, DIGIT, EDGES, SCENE, shell

pytestmark = pytest.mark.usefixtures("level", "samples")

zero_padded = layers(modes=("zeros",))


def rng() -> np.random.Generator:
    return np.random.default_rng(2017)


# The library.


@at_each_level
@given(zero_padded, st.sampled_from(["i8", "f4", "f8", "c16"]))
def test_the_adjoint_of_convolve(layer: Layer, dtype: str) -> None:
    """⟨convolve x, y⟩ = ⟨x, convolve_transpose y⟩, exactly."""
    make, where = probes(dtype, rng()), layer.where | {"groups": layer.groups}
    x, filters, y = make(layer.shape), make(layer.filter_shape), make(layer.output_shape)
    ours = cm.convolve_transpose(y, filters, **where, input_shape=layer.shape)
    # Without conjugation: the transpose, of complex numbers too.
    assert np.sum(cm.convolve(x, filters, **where) * y) == np.sum(x * ours)
    assert (ours.shape, ours.dtype) == (layer.shape, np.dtype(dtype))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_every_padding_name_has_its_adjoint(rule: str, size: int) -> None:
    make, where = probes("i8", rng()), {"stride": (2, 3), "padding": rule, "dilation": (2, 1)}
    x, filters = make((2, size, 9, 2)), make((3, 2, 4, 2))
    y = make(cm.convolve(x, filters, **where).shape)
    ours = cm.convolve_transpose(y, filters, **where, input_shape=x.shape)
    assert np.vdot(cm.convolve(x, filters, **where), y) == np.vdot(x, ours)


@at_each_level
@given(zero_padded, st.sampled_from(DTYPES), disguises, st.booleans(), st.sampled_from([1, 3]))
def test_the_definition(
    layer: Layer, dtype: str, disguise: Callable[[np.ndarray], np.ndarray], known: bool, threads: int
) -> None:
    make, where = probes(dtype, rng()), layer.where | {"groups": layer.groups}
    y, filters = make(layer.output_shape), make(layer.filter_shape)
    bias = make(layer.shape[-1:]) if layer.has_bias else None
    arguments: dict[str, Any] = where | {"input_shape": layer.shape if known else None, "bias": bias}
    if not known and min(reference.transposed_size(y.shape[1:-1], layer.kernel, **layer.where)) < 1:
        with pytest.raises(GeometryError, match=r"^padding: leaves -?\d+ pixels of .*; use less padding"):
            cm.convolve_transpose(y, filters, **arguments)
        return
    ours = cm.convolve_transpose(frozen(disguise(y)), frozen(disguise(filters)), **arguments, threads=threads)
    wanted = reference.convolve_transpose(y, filters, **arguments)
    kind = np.dtype(dtype)
    assert_same_bits(ours, wanted.astype(kind.newbyteorder("=") if kind.kind in "fc" else np.int64))


@at_each_level
@given(zero_padded, st.data())
def test_output_padding(layer: Layer, data: st.DataObject) -> None:
    strides, dilations = zip(*[(s, d) for _, _, s, d, _ in layer.axes], strict=True)
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True))
    where = layer.where | {"groups": layer.groups, "padding": 0, "output_padding": extra}
    make = probes("i8", rng())
    y, filters = make(layer.output_shape), make(layer.filter_shape)
    ours = cm.convolve_transpose(y, filters, **where)
    np.testing.assert_array_equal(ours, reference.convolve_transpose(y, filters, **where))
    less = cm.convolve_transpose(y, filters, **where | {"output_padding": 0})
    assert ours.shape[1:-1] == tuple(h + e for h, e in zip(less.shape[1:-1], extra, strict=True))


@settings(max_examples=100)
@given(zero_padded)
def test_the_transpose_of_the_layers_matrix(layer: Layer) -> None:
    """Mᵀ · vec(Y), exactly."""
    make, where = probes("i8", rng()), layer.where | {"groups": layer.groups}
    filters, y = make(layer.filter_shape), make((1, *layer.output_shape[1:]))
    shape = (1, *layer.shape[1:])
    m = cm.layer_matrix(filters, shape, **where)
    ours = cm.convolve_transpose(y, filters, **where, input_shape=shape)
    np.testing.assert_array_equal(y.reshape(-1) @ m, ours.reshape(-1))
    np.testing.assert_array_equal(m.toarray().T @ y.reshape(-1), ours.reshape(-1))


@at_each_level
@given(layers(modes=("zeros",)).filter(lambda layer: layer.groups == 1))
def test_fold_of_y_times_w_col_transposed(layer: Layer) -> None:
    make = probes("i8", rng())
    filters, y = make(layer.filter_shape), make(layer.output_shape)
    rows = y.reshape(math.prod(y.shape[:-1]), len(filters)) @ cm.flatten_filters(filters).T
    np.testing.assert_array_equal(
        cm.convolve_transpose(y, filters, **layer.where, input_shape=layer.shape),
        cm.fold(rows, layer.shape, layer.kernel, **layer.where),
    )


@settings(max_examples=50)
@given(layers(modes=("zeros",)), st.sampled_from(["f4", "c16"]))
def test_threads_do_not_show(layer: Layer, dtype: str) -> None:
    make = noise(dtype, rng())
    y, filters = make(layer.output_shape), make(layer.filter_shape)
    where: dict[str, Any] = layer.where | {"groups": layer.groups, "input_shape": layer.shape}
    one, three = (cm.convolve_transpose(y, filters, **where, threads=threads) for threads in (1, 3))
    assert_same_bits(three, one)


@settings(max_examples=50)
@given(layers(modes=("zeros",)), st.sampled_from(["u1", "f4", "f8"]))
def test_bands_do_not_show(layer: Layer, dtype: str) -> None:
    """A line of the result at a time, by itself and where everything has to be converted."""
    make = probes(dtype, rng())
    y, filters = make(layer.output_shape), make(layer.filter_shape)
    where: dict[str, Any] = layer.where | {"groups": layer.groups, "input_shape": layer.shape}
    wanted = cm.convolve_transpose(y, filters, **where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convmat.adjoint.BLOCK_BYTES", 1)
        assert_same_bits(cm.convolve_transpose(y, filters, **where), wanted)


def test_by_hand() -> None:
    """Each number lays its filter down, two apart."""
    y, filters = np.array([1, 10]).reshape(1, 2, 1), np.array([1, 2, 3]).reshape(1, 3, 1)
    assert cm.convolve_transpose(y, filters, 2).ravel().tolist() == [1, 2, 13, 20, 30]
    assert cm.convolve_transpose(y, filters, 2, 1).ravel().tolist() == [2, 13, 20]
    assert cm.convolve_transpose(y, filters, 2, 1, output_padding=1).ravel().tolist() == [2, 13, 20, 30]
    assert cm.convolve_transpose(y, filters, 2, output_padding=1).ravel().tolist() == [1, 2, 13, 20, 30, 0]
    assert cm.convolve_transpose(y, filters, 2, "same").ravel().tolist() == [1, 2, 13, 20]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_beside_torch(axes: int) -> None:
    torch = pytest.importorskip("torch")
    run = getattr(torch.nn.functional, f"conv_transpose{axes}d")
    random, make = rng(), probes("f4", rng())
    for _ in range(60):
        groups, size = int(random.choice([1, 2])), random.integers(1, 5, axes)
        stride, dilation, kernel = (tuple(random.integers(1, 4, axes).tolist()) for _ in range(3))
        padding = tuple(random.integers(0, 2, axes).tolist())
        extra = tuple(int(random.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
        sizes = reference.transposed_size(
            size, kernel, stride, tuple((p, p) for p in padding), dilation, extra
        )
        if min(sizes) < 1:
            continue
        y, filters, bias = make((2, *size, 2 * groups)), make((2 * groups, *kernel, 3)), make((3 * groups,))
        wanted = run(
            *(torch.from_numpy(np.moveaxis(a, -1, 1).copy()) for a in (y, filters)),
            torch.from_numpy(bias.copy()),
            stride=stride,
            padding=padding,
            output_padding=extra,
            groups=groups,
            dilation=dilation,
        )
        ours = cm.convolve_transpose(y, filters, stride, padding, dilation, groups, extra, bias=bias)
        np.testing.assert_array_equal(np.moveaxis(ours, -1, 1), wanted.numpy())


def test_no_images() -> None:
    ours = cm.convolve_transpose(np.empty((0, 4, 5, 2), "f2"), np.zeros((2, 3, 3, 1), "f2"), 2, "same")
    assert (ours.shape, ours.dtype) == ((0, 8, 10, 1), np.dtype("f2"))


def test_infinity_goes_where_its_filter_lies() -> None:
    y = np.zeros((1, 3, 1))
    y[0, 1] = np.inf
    ours = cm.convolve_transpose(y, np.ones((1, 2, 1)), 2)
    np.testing.assert_array_equal(ours.ravel(), [0, 0, np.inf, np.inf, 0, 0])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"filters": np.zeros((3, 2, 1))}, ShapeError, r"^input: has 2 channels, 3 filters give as many"),
        ({"filters": np.zeros((2, 2, 2, 1))}, ShapeError, r"^filters: have shape .* with 3 axes, none 0"),
        ({"filters": np.zeros((2, 0, 1))}, ShapeError, r"^filters: have shape .*none 0"),
        ({"filters": np.zeros((2, 2, 1), "U")}, DTypeError, r"^filters: has dtype <U1"),
        ({"groups": 3}, GeometryError, r"^groups: 3 does not divide the 2 filters"),
        ({"bias": np.zeros(2)}, ShapeError, r"^bias: has shape \(2,\), 1 channels take \(1,\)"),
        ({"output_padding": 1}, GeometryError, r"^output_padding: 1 along width is not below the stride 1"),
        ({"output_padding": -1}, GeometryError, r"^output_padding: must be at least 0"),
        (
            {"padding": "same", "stride": 2, "output_padding": 1},
            GeometryError,
            r"^output_padding: got 1, and",
        ),
        ({"padding": 4}, GeometryError, r"^padding: leaves -2 pixels of width; use less padding"),
        ({"padding": "most"}, GeometryError, r"^padding: unknown name 'most'"),
        ({"input_shape": (1, 8, 1)}, GeometryError, r"^input_shape: \(1, 8, 1\) gives 1 outputs of \(7,\)"),
        ({"input_shape": (2, 6, 1)}, GeometryError, r"^input_shape: \(2, 6, 1\) gives 2 outputs of \(5,\)"),
        ({"input_shape": (1, 6, 3)}, GeometryError, r"^input_shape: \(1, 6, 3\) has 3 channels, .* make 1;"),
        ({"threads": 0}, GeometryError, r"^threads: must be 1 to 1024, got 0;"),
    ],
)
def test_refused(arguments: dict[str, Any], error: type[ConvmatError], message: str) -> None:
    with pytest.raises(error, match=message):
        cm.convolve_transpose(np.zeros((1, 5, 2)), **{"filters": np.zeros((2, 2, 1))} | arguments)


def test_integers_that_could_pass_int64() -> None:
    with pytest.raises(IntegerRangeError, match=r"^input: sums of 2 products could reach"):
        cm.convolve_transpose(np.full((1, 3, 1), 2**40), np.full((1, 2, 1), 2**40))


# The command.


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("", {}),
        ("-s 2 -p same", {"stride": 2, "padding": "same"}),
        (
            "-s 2,3 -d 1,2 --output-padding 1,2",
            {"stride": (2, 3), "dilation": (1, 2), "output_padding": (1, 2)},
        ),
        ("-s 2 --flip --bias bias.npy", {"stride": 2, "flip": True, "bias": True}),
        ("-s 3 -p 1,0,0,2 --input-shape SHAPE", {"stride": 3, "padding": ((1, 0), (0, 2)), "known": True}),
        ("-s 2 --groups 2", {"stride": 2, "groups": 2}),
    ],
)
def test_the_command_gives_what_the_library_gives(
    options: str, arguments: dict[str, Any], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmat.cli.inputs._CHUNK_BYTES", 1)  # an image at a time
    make, arguments = probes("i4", rng()), dict(arguments)
    y, filters, bias = make((3, 4, 5, 6)), make((6, 3, 2, 2)), make((2,))
    given_filters = filters[:, ::-1, ::-1] if arguments.pop("flip", False) else filters
    if arguments.pop("bias", False):
        arguments["bias"] = bias
    if arguments.pop("known", False):
        arguments["input_shape"] = (3, 13, 13, 2)
    wanted = cm.convolve_transpose(y, given_filters, **arguments)
    np.save("y.npy", np.moveaxis(y, -1, 1) if layout == "nchw" else y)
    np.save("k.npy", filters)
    np.save("bias.npy", bias)
    for shape in ("13,13", "13,13,2", "3,13,13,2") if "SHAPE" in options else ("",):
        sizes = {"13,13,2": "2,13,13", "3,13,13,2": "3,2,13,13"}.get(shape, shape)
        line = options.replace("SHAPE", sizes if layout == "nchw" else shape)
        command = f"convolve y.npy --kernel k.npy --transpose --layout {layout} {line} -q -o x.npy"
        assert run(command.split()) == 0
        found = np.load("x.npy")
        assert_same_bits(found, np.moveaxis(wanted, -1, 1).copy() if layout == "nchw" else wanted)


def test_depthwise_and_pictures() -> None:
    command = f"convolve {SCENE} --kernel box:2 --depthwise --transpose -s 2 -q -o"
    assert run([*command.split(), "x.npy"]) == 0
    pixels = np.asarray(Image.open(SCENE))
    np.testing.assert_array_equal(np.load("x.npy")[0], pixels.repeat(2, 0).repeat(2, 1) / 4)
    assert run([*command.split(), "x.png"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("x.png")), np.rint(np.load("x.npy")[0]))
    np.save("k.npy", np.arange(12).reshape(3, 2, 2))
    assert run([*f"convolve {SCENE} --kernel k.npy --depthwise --transpose -q -o y.npy".split()]) == 0
    filters = np.arange(12).reshape(3, 2, 2, 1)
    np.testing.assert_array_equal(np.load("y.npy"), cm.convolve_transpose(pixels[None], filters, groups=3))


def test_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"convolve {DIGIT} --kernel box:3 --transpose --stride 2 --padding 1 --output-padding 1"
    assert run([*command.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("range")[0] == 0
    wanted = {
        "input": [DIGIT],
        "transpose": True,
        "input_shape": [1, 28, 28, 1],
        "kernel_size": [3, 3],
        "stride": [2, 2],
        "dilation": [1, 1],
        "padding": None,
        "padding_mode": "zeros",
        "pads": [[1, 1], [1, 1]],
        "output_height": 56,
        "output_width": 56,
        "output_size": [56, 56],
        "filters": 1,
        "groups": 1,
        "flip": False,
        "matrix_shape": [784, 9],
        "weights_shape": [9, 1],
        "layout": "nhwc",
        "output_shape": [1, 56, 56, 1],
        "dtype": "float64",
    }
    assert {key: found[key] for key in wanted} == wanted
    assert {key for key, value in found.items() if value is not None} <= set(wanted)
    assert run(command.split()) == 0
    assert "(28 - 1)*2 - (1 + 1) + 3 + 1 = 56" in capsys.readouterr().out


def test_it_takes_back_what_convolve_gave() -> None:
    status, out, err = shell(
        f"convmat convolve {SCENE} --kernel {EDGES} --stride 3 --padding same -q -o - | tee y.npy | "
        f"convmat convolve - --kernel {EDGES} --stride 3 --padding same --transpose --input-shape 256,384 "
        "-q -o - > x.npy"
    )
    assert (status, out, err) == (0, "", "")
    wanted = cm.convolve_transpose(np.load("y.npy"), np.load(EDGES), 3, "same", input_shape=(1, 256, 384, 3))
    np.testing.assert_array_equal(np.load("x.npy"), wanted)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{DIGIT} --kernel box:3 --output-padding 1", r"--output-padding goes with --transpose; see"),
        (f"{DIGIT} --kernel box:3 --input-shape 9,9", r"--input-shape goes with --transpose; see"),
        (
            f"{DIGIT} --kernel box:3 --transpose --padding-mode reflect",
            r"--padding-mode: got reflect; a transposed convolution .* zeros alone: leave it out",
        ),
        (f"{SCENE} --kernel box:3 --transpose", r"--kernel: are 1, .* the input has 3; .*add --depthwise"),
        (
            f"{SCENE} --kernel {EDGES} --transpose",
            r"--kernel: are 8, .* has 8 channels, and the input has 3;",
        ),
        (f"{SCENE} --kernel {EDGES} --transpose --depthwise", r"--kernel: are 8, .* the input has 3;"),
        (f"{SCENE} --kernel box:3 --transpose --depthwise -g 2", r"--groups: --depthwise means 3 groups"),
        (f"{DIGIT} --kernel box:3 --transpose -g 2", r"--groups: 2 does not divide the 1 filters"),
        (f"{DIGIT} --kernel box:3 --transpose -g 0", r"--groups: 0 does not divide the 1 filters"),
        (f"{DIGIT} --kernel box:3 --transpose --bias {BIAS}", r"--bias: has shape \(8,\), 1 channels take"),
        (f"{DIGIT} --kernel box:3 --transpose -p 20", r"--padding: leaves -10 pixels of height"),
        (
            f"{DIGIT} --kernel box:3 --transpose --output-padding 1",
            r"--output-padding: 1 along height is not",
        ),
        (
            f"{DIGIT} --kernel box:3 --transpose -s 2 -p same --output-padding 1",
            r"--output-padding: got 1, and padding same, which makes",
        ),
        (
            f"{DIGIT} --kernel box:3 --transpose --input-shape 29,30",
            r"--input-shape: \(1, 29, 30, 1\) gives 1",
        ),
        (
            f"{DIGIT} --kernel box:3 --transpose --input-shape 2,30,30,1",
            r"--input-shape: \(2, 30, 30, 1\) giv",
        ),
        (
            f"{DIGIT} --kernel box:3 --transpose --input-shape 30,30,3",
            r"--input-shape: \(1, 30, 30, 3\) has 3",
        ),
        (f"{DIGIT} --kernel box:3 --transpose --input-shape 30", r"--input-shape: has 1 axes \(30,\); "),
        (f"{DIGIT} --transpose", r"Missing option '--kernel'; .*"),
        ("k.npy --kernel k.npy --transpose -o y.png", r"--output: has shape \(3, .*, a picture shows"),
    ],
)
def test_trouble_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("k.npy", np.ones((3, 3, 3)) if "y.png" not in line else np.ones((3, 2, 2, 3)))
    assert run(["convolve", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"convmat: {told}.*\n", err), err
