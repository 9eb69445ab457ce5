"""`convmat locate`, and the mapping it shows, against `unroll` of images that code their own coordinates."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

import convmat as cm
from convmat.cli import run
from convmat.errors import GeometryError, MappingIndexError
from tests.strategies import MODES, Layer, layers
from tests.tools import DIGIT, SCENE, shell

pytestmark = pytest.mark.usefixtures("samples")


def coded(shape: tuple[int, ...]) -> np.ndarray:
    """An image batch whose elements are their own place, from 1: 0 is left to the padding."""
    return np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)


@given(layers())
def test_every_element_of_x_col_both_ways(layer: Layer) -> None:
    x = coded(layer.shape)
    g = cm.ConvGeometry(x.shape, layer.kernel, **layer.where)
    for order in ("hwc", "chw"):
        x_col = cm.unroll(x, layer.kernel, **layer.patch, order=order)
        held: dict[int, list[tuple[int, int]]] = {}
        for row, col in itertools.product(*map(range, x_col.shape)):
            place = g.place(row, col, layer.padding_mode, order=order)
            assert g.input_index(row, col, layer.padding_mode, order=order) == place.element
            assert x_col[row, col] == (0 if place.element is None else x[place.element])
            assert place.in_padding == (g.input_index(row, col, order=order) is None)
            assert g.column_of(place.tap, place.channel, order) == col
            held.setdefault(x_col[row, col], []).append((row, col))
        for element in np.ndindex(x.shape):
            n, *pixel, c = element
            found = g.matrix_indices(n, pixel, c, layer.padding_mode, order=order)
            assert found == held.get(x[element], [])


@pytest.mark.parametrize(
    ("mode", "element"),
    [("zeros", None), ("reflect", (0, 2, 1, 0)), ("replicate", (0, 0, 1, 0)), ("circular", (0, 3, 1, 0))],
)
def test_what_stands_in_the_padding(mode: str, element: tuple[int, ...] | None) -> None:
    place = cm.ConvGeometry((1, 5, 5, 1), 3, padding=2).place(1, 2, mode)
    assert (place.position, place.element, place.in_padding) == ((-2, 1), element, True)


@pytest.mark.parametrize(
    ("method", "arguments", "error", "message"),
    [
        ("place", (9, 0), MappingIndexError, "^row: 9 is outside X_col, which has 9; give 0 to 8$"),
        ("place", (0, 18), MappingIndexError, "^column: 18 is outside X_col"),
        ("place", (0, 0, "mirror"), GeometryError, "^padding_mode: unknown 'mirror'; give one of zeros, ref"),
        ("input_index", (0, 0, "mirror"), GeometryError, "^padding_mode: unknown 'mirror'"),
        ("matrix_indices", (0, (0, 0), 0, "mirror"), GeometryError, "^padding_mode: unknown 'mirror'"),
        ("kernel_tap", (0, "cwh"), GeometryError, "^order: unknown 'cwh'; give one of hwc, chw$"),
        (
            "column_of",
            ((3, 0), 0),
            MappingIndexError,
            r"^tap: \(3, 0, 0\) is not in the kernel and channels, ",
        ),
        ("column_of", ((0, 0), 2), MappingIndexError, r"^tap: \(0, 0, 2\) is not in the kernel"),
        ("column_of", ((0,), 0), MappingIndexError, r"^tap: \(0, 0\) is not in the kernel"),
    ],
)
def test_what_the_mapping_refuses(
    method: str, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(cm.ConvGeometry((1, 5, 5, 2), 3), method)(*arguments)


# The command


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `locate` with a line of arguments; what it printed, as JSON where that was asked for."""

    def call(line: str) -> Any:
        assert run(["locate", *line.split()]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out) if "--json" in line else out

    return call


def test_a_row_and_column_in_words(said: Any) -> None:
    out = said(f"{DIGIT} --k 7 --stride 7 --row 5 --col 10")
    value = np.asarray(Image.open(DIGIT))[8, 10]
    for label, text in {
        "row": "(0*4 + 1)*4 + 1 = 5",
        "patch (n, y, x)": "0, 1, 1",
        "column": "(1*7 + 3)*1 + 0 = 10",
        "tap (i, j)": "1, 3",
        "pixel y": "1*7 + 1*1 - 0 = 8",
        "pixel x": "1*7 + 3*1 - 0 = 10",
        "pixel (n, y, x, c)": "0, 8, 10, 0",
        "value": str(value),
    }.items():
        assert re.search(rf"│ {re.escape(label)} +│ {re.escape(text)} +│", out), label


def test_padding_says_so(said: Any) -> None:
    line = f"{SCENE} --k 3 --padding 1 --row 0 --col 1"
    out = said(line)
    assert "0*1 + 0*1 - 1 = -1, outside 0..255" in out
    assert "none: padding, which is zero" in out
    assert (said(f"{line} --json")["pixel"], said(f"{line} --json")["value"]) == (None, 0)
    for mode, words in (("reflect", "mirrored"), ("replicate", "edge repeated"), ("circular", "input again")):
        out = said(f"{line} --padding-mode {mode}")
        assert re.search(rf"│ 0, \d+, \d+, 1, in the padding: the \w* ?{words}", out)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize(
    ("shape", "options", "arguments"),
    [
        (
            (2, 5, 4, 3),
            "-k 3,2 -s 2,1 -p same -d 1,2",
            {"stride": (2, 1), "padding": "same", "dilation": (1, 2)},
        ),
        ((2, 6, 2), "-k 3 -p 2 --dims 1", {"padding": 2}),
        ((1, 3, 2, 3, 2), "-k 2,1,2 -p 1", {"padding": 1}),
    ],
)
def test_both_ways_on_batches_of_any_axes(
    said: Any, shape: tuple[int, ...], options: str, arguments: dict[str, Any], order: str, mode: str
) -> None:
    x = coded(shape)
    np.save("x.npy", np.moveaxis(x, -1, 1))
    options += f" --order {order} --padding-mode {mode} --layout nchw --json"
    kernel = tuple(map(int, options.split()[1].split(",")))
    x_col = cm.unroll(
        x, kernel if len(kernel) > 1 else kernel[0], **arguments, order=order, padding_mode=mode
    )
    rng = np.random.default_rng(0)
    for row, col in zip(*(rng.integers(0, size, 4) for size in x_col.shape), strict=True):
        found = said(f"x.npy {options} --row {row} --col {col}")
        assert found["value"] == x_col[row, col]
        assert [found[f"column_{order}"], found["column"], found["row"]] == [col, col, row]
        per_image = len(x_col) // len(x)
        assert found["unfold"] == [row // per_image, found["column_chw"], row % per_image]
        if found["pixel"] is None:
            continue
        pixel = ",".join(map(str, found["pixel"]))
        back = said(f"x.npy {options} --pixel {pixel}")
        assert back["value"] == x_col[row, col]
        places = [[place["row"], place["column"]] for place in back["places"]]
        assert places == np.argwhere(x_col == back["value"]).tolist()
        assert back["count"] == len(places)


def test_pixel_in_words(said: Any) -> None:
    out = said("--input-shape 28,28,1 --k 3 --pixel 9,12,0")
    assert re.search(r"times in X_col +│ 9 ", out)
    assert re.search(r"│ 220 +│ 3 +│ 0, 8, 12 +│ 1, 0 ", out)
    assert "value" not in out


def test_a_pixel_never_covered_says_so(said: Any) -> None:
    line = "--input-shape 5,5 -k 2 -s 3 --pixel 2,2,0"
    assert "0: no patch covers this pixel" in said(line)
    assert (said(f"{line} --json")["count"], said(f"{line} --json")["places"]) == (0, [])


def test_columns_in_pytorch_s_order_have_the_other_number_beside(said: Any) -> None:
    out = said(f"{SCENE} -k 3 --row 400 --col 20 --order chw")
    assert re.search(r"│ column +│ \(2\*3 \+ 0\)\*3 \+ 2 = 20 ", out)
    assert re.search(r"│ column in hwc order +│ \(0\*3 \+ 2\)\*3 \+ 2 = 8 ", out)
    assert re.search(r"│ in PyTorch's unfold +│ \[0, 20, 400\]", out)
    out = said(f"{SCENE} -k 3 --pixel 0,0,2 --order chw")
    assert re.search(r"│ row +│ column +│ column in hwc order │", out)
    assert re.search(r"│ 0 +│ 18 +│ 2 +│ 0, 0, 0 +│ 0, 0 +│", out)


def test_pytorch_s_unfold_has_that_number() -> None:
    torch = pytest.importorskip("torch")
    x = coded((2, 5, 4, 3))
    unfolded = torch.nn.functional.unfold(torch.from_numpy(np.moveaxis(x, -1, 1)).double(), (3, 2), padding=1)
    g = cm.ConvGeometry(x.shape, (3, 2), padding=1)
    for n, col, patch in np.ndindex(*unfolded.shape):
        element = g.input_index(n * g.patches + patch, col, order="chw")
        assert unfolded[n, col, patch] == (0 if element is None else x[element])


def test_several_images_are_a_batch(said: Any) -> None:
    for n in range(3):
        np.save(f"{n}.npy", coded((2, 4, 4, 1)) + 100 * n)
    found = said("0.npy 1.npy 2.npy -k 2 --pixel 3,1,2,0 --json")
    assert (found["input_shape"], found["value"]) == ([6, 4, 4, 1], 100 + 16 + 7)
    assert said("0.npy 1.npy 2.npy -k 2 --pixel 1,2,0 --json")["pixel"] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("value", "shown", "plain"),
    [
        (np.float32(0.1), "0.1", float(np.float32(0.1))),
        (np.nan, "nan", None),
        (np.bool_(True), "True", True),
        (np.complex64(1 - 2j), "(1-2j)", [1.0, -2.0]),
        (np.array(258, ">u2"), "258", 258),
        (np.int64(-(2**63)), "-9223372036854775808", -(2**63)),
    ],
)
def test_values_of_every_kind(said: Any, value: Any, shown: str, plain: Any) -> None:
    np.save("x.npy", np.full((3, 3), value))
    assert re.search(rf"│ value +│ {re.escape(shown)} +│", said("x.npy -k 2 --row 0 --col 0"))
    assert said("x.npy -k 2 --row 0 --col 0 --json")["value"] == plain


@pytest.mark.parametrize("where", ["--row 0 --col 0 -p 1", "--pixel 1,1,1,0"])
def test_a_pipe_is_read_to_its_end(where: str) -> None:
    np.save("x.npy", coded((40, 100, 100, 1)))
    script = "set -o pipefail; cat x.npy | convmat locate - WHERE && convmat locate x.npy WHERE"
    status, out, err = shell(script.replace("WHERE", f"-k 2 {where} --json"))
    assert (status, err) == (0, "")
    piped, read = map(json.loads, out.splitlines())
    assert piped.pop("input") != read.pop("input")
    assert piped == read


def test_a_truncated_pipe_is_told() -> None:
    np.save("x.npy", coded((4, 100, 100, 1)))
    status, out, err = shell("head -c 100000 x.npy | convmat locate - -k 2 --row 0 --col 0")
    assert (status, out) == (2, "")
    assert "standard input: truncated" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{DIGIT} -k 3", "Give --row and --col, or --pixel alone; see 'convmat locate --help'"),
        (f"{DIGIT} -k 3 --row 1", "Give --row and --col, or --pixel alone"),
        (f"{DIGIT} -k 3 --col 1", "Give --row and --col, or --pixel alone"),
        (f"{DIGIT} -k 3 --row 1 --col 1 --pixel 1,1,0", "Give --row and --col, or --pixel alone"),
        (f"{DIGIT} -k 3 --row 1 --pixel 1,1,0", "Give --row and --col, or --pixel alone"),
        ("-k 3 --row 1 --col 1", "Give INPUT, or --input-shape alone"),
        (f"{DIGIT} --input-shape 28,28 -k 3 --row 1 --col 1", "Give INPUT, or --input-shape alone"),
        (f"{DIGIT} -k 3 --row 676 --col 1", "--row: 676 is outside X_col, which has 676; give 0 to 675"),
        (f"{DIGIT} -k 3 --row -1 --col 1", "--row: -1 is outside X_col"),
        (f"{DIGIT} -k 3 --row 1 --col 9", "--col: 9 is outside X_col, which has 9; give 0 to 8"),
        (f"{DIGIT} -k 3 --pixel 9,12", r"--pixel: got 2 numbers \(9, 12\); give y,x,c or n,y,x,c"),
        (f"{DIGIT} -k 3 --pixel 9", r"--pixel: got 1 numbers \(9,\); give y,x,c or n,y,x,c"),
        ("--input-shape 9,1 -k 3 --dims 1 --pixel 9,1,1,1", r"--pixel: got 4 .* give x,c or n,x,c"),
        (
            f"{DIGIT} -k 3 --pixel 28,0,0",
            r"--pixel: \(0, 28, 0, 0\) is not in the input, .* \(1, 28, 28, 1\)",
        ),
        (f"{DIGIT} -k 3 --pixel 1,a,0", "'1,a,0' is no size"),
        (f"{DIGIT} --row 0 --col 0", "Missing option '--k'"),
        (f"{DIGIT} -k 30 --row 0 --col 0", "--k: the kernel spans 30 pixels"),
        ("--input-shape 28 -k 3 --row 0 --col 0", r"--input-shape: .* with 2 spatial axes it is"),
        (
            "--input-shape 28,0 -k 3 --row 0 --col 0",
            r"--input-shape: got \(28, 0\); sizes and channels",
        ),
        (
            "--input-shape 28,-1 -k 3 --row 0 --col 0",
            r"--input-shape: got \(28, -1\); sizes and channels must be",
        ),
        ("--input-shape 1,2,3,4,5,6 -k 3 --row 0 --col 0", "'1,2,3,4,5,6' has 6 numbers; give at most 5"),
        ("--input-shape 28,28,1 -k 3 -p 1,2,3 --row 0 --col 0", "--padding: got 3 numbers"),
        ("none.npy -k 3 --row 0 --col 0", "none.npy: cannot be read"),
    ],
)
def test_trouble(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["locate", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(f"convmat: .*({told})", err), err


def test_quiet_prints_nothing(said: Any) -> None:
    assert said(f"{DIGIT} -k 3 --row 1 --col 1 -q") == ""
