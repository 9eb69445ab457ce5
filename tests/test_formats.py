"""bfloat16, float8 and kin: rounding, files and raw numbers, verdicts in them; arrays of other libraries."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import convmat as cm
from convmat.cli import run
from convmat.errors import DTypeError, FileError, ShapeError
from convmat.files.described import described, said_of
from convmat.files.npy import NpyInput
from convmat.formats import CODED, FORMATS, Narrow, as_array, format_of, narrow, stored
from convmat.verification.diagnosis import diagnose

BFLOAT16 = FORMATS["bfloat16"]
HALVES = np.array([[1, 2], [-1, 0.5]], np.float32)


@pytest.fixture(autouse=True)
def no_pairs_of_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for them takes seconds."""
    monkeypatch.setitem(diagnose.__kwdefaults__, "budget", 0)


def bits_of(values: Any) -> Any:
    """The codes of bfloat16 values."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def save_narrow(name: str, values: Any) -> None:
    """As ml_dtypes saves bfloat16 values, which must be some."""
    np.save(name, bits_of(values).view("V2"))


# Rounding


@given(
    name=st.sampled_from(["float16", *CODED]),
    values=hnp.arrays(np.float32, 20, elements=st.floats(width=32) | st.floats(-70000, 70000, width=32)),
)
def test_rounding_is_that_of_the_dtype(name: str, values: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with np.errstate(all="ignore"):
        right = values.astype(getattr(ml_dtypes, name, name)).astype(np.float32)
    for given_as in (values, values.astype(np.float64)):
        rounded = FORMATS[name].round(given_as)
        assert rounded.dtype == given_as.dtype
        np.testing.assert_array_equal(rounded, right)


def test_rounding_and_truncating_by_hand() -> None:
    """Ties go to the even neighbour, and past the largest number to infinity, or NaN where there is none."""
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7 - 2**-9, 3.4e38, 2**-134, -np.inf])
    rounded = [1, 1 + 2**-6, -1 - 2**-7, np.inf, 0, -np.inf]
    np.testing.assert_array_equal(BFLOAT16.round(values), rounded)
    cut = [1, 1 + 2**-7, -1 - 2**-7, BFLOAT16.largest, 0, -np.inf]
    np.testing.assert_array_equal(BFLOAT16.truncate(values), cut)
    e4m3fn = FORMATS["float8_e4m3fn"]
    np.testing.assert_array_equal(e4m3fn.round(np.array([464.0, 465, -np.inf])), [448, np.nan, np.nan])
    assert (e4m3fn.u, e4m3fn.least) == (2**-4, 2**-9)
    tf32 = FORMATS["tf32"].round(np.float32([1 + 2**-11, 1 + 3 * 2**-11]))
    np.testing.assert_array_equal(tf32, [1, 1 + 2**-9])


@pytest.mark.parametrize("name", CODED)
def test_every_code_is_read_as_its_number(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = stored(name)
    codes = np.arange(1 << (8 * kind.dtype.itemsize)).astype(kind.dtype)
    right = codes.view(getattr(ml_dtypes, name)).astype(np.float32)
    np.testing.assert_array_equal(kind.widened(codes), right)
    finite = right[np.isfinite(right)]
    form, least = FORMATS[name], np.abs(finite)[finite != 0].min()
    assert (float(finite.max()), float(least)) == (form.largest, form.least)


def test_codes_by_hand() -> None:
    read = stored("float8_e4m3fn").widened(np.uint8([0x7E, 0x7F, 0x01, 0x88, 0xB8]))
    np.testing.assert_array_equal(read, [448, np.nan, 2**-9, -(2**-6), -1])
    np.testing.assert_array_equal(stored("float8_e5m2").widened(np.uint8([0x7C, 0xFB])), [np.inf, -57344])
    np.testing.assert_array_equal(stored("float8_e4m3fnuz").widened(np.uint8([0x80, 0x7F])), [np.nan, 240])


# Files


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_what_ml_dtypes_saves(name: str, folder: Path) -> None:
    """float8_e5m2 tells what it is; of the others .npy keeps the size alone."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.arange(-3, 3).reshape(2, 3)
    np.save("x.npy", values.astype(getattr(ml_dtypes, name)))
    np.savez("a.npz", x=values.astype(getattr(ml_dtypes, name)))
    for file in ("x.npy", "a.npz:x"):
        source = NpyInput(described(file, name))
        assert source.dtype == (np.int8 if name == "int4" else np.float32)
        np.testing.assert_array_equal(source.read(), values)
    np.testing.assert_array_equal(np.concatenate(list(NpyInput(described("x.npy", name)).blocks(1))), values)
    if name == "float8_e5m2":
        np.testing.assert_array_equal(NpyInput("x.npy").read(), values)
    else:
        like = "bfloat16 is" if name == "bfloat16" else "float8 and int4 are"
        with pytest.raises(
            FileError, match=rf"as ml_dtypes' {like} saved, .*; say which they are, as in --dt"
        ):
            NpyInput("x.npy")


def test_without_ml_dtypes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 and float8 are read; what else ml_dtypes has asks for it."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    save_narrow("x.npy", HALVES)
    np.testing.assert_array_equal(NpyInput(described("x.npy:bfloat16")).read(), HALVES)
    np.save("y.npy", np.uint8([0x38, 0xB8]).view("V1"))
    np.testing.assert_array_equal(NpyInput(described("y.npy:float8_e4m3fn")).read(), [1, -1])
    with pytest.raises(FileError, match=r"^y\.npy: int4 is read with ml_dtypes, .*; pip install ml_dtypes$"):
        NpyInput(described("y.npy:int4"))


@pytest.mark.parametrize("dtype", ["float32", ">i2", "uint8", "complex64", "bfloat16"])
def test_raw_numbers(dtype: str, folder: Path, called: Any) -> None:
    """From files and pipes, with what is said of all or of one; what begins like an archive, too."""
    values = np.arange(6).reshape(1, 2, 3) + (0 if dtype != "uint8" else 0x4B50)
    raw = bits_of(values).tobytes() if dtype == "bfloat16" else values.astype(dtype).tobytes()
    Path("x.bin").write_bytes(raw)
    expected = values.astype("f4" if dtype == "bfloat16" else dtype)
    np.save("x.npy", expected)
    for name in ("x.bin", "x.bin:1x2x3", f"x.bin:{dtype}"):
        assert called("compare", name, "x.npy", "--dtype", dtype, "--shape", "1,2,3", "-q")[0] == 0
    assert called("compare", f"x.bin:{dtype}:1x2x3", "x.npy", "--dtype", "f8", "--shape", "9", "-q")[0] == 0
    other = Path("other")
    other.write_bytes(raw)
    np.testing.assert_array_equal(NpyInput(described(f"other:{dtype}:1,2,3")).read(), expected)
    mapped = NpyInput(described(f"x.bin:{dtype}:1x2x3"), mapped_from=0)
    assert mapped.is_mapped == (dtype != "bfloat16")
    np.testing.assert_array_equal(mapped.read(), expected)


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; its status, and what it printed on both streams."""

    def call(*args: str) -> tuple[int, str, str]:
        return run(list(args)), *capsys.readouterr()

    return call


def test_images_and_arrays_tell_themselves(folder: Path, called: Any) -> None:
    """What is said is of the others."""
    from PIL import Image

    Image.fromarray(np.uint8([[1, 2], [3, 4]])).save("x.png")
    np.float32([2, 0]).tofile("k.bin")
    np.save("y.npy", np.float32([[[[2]], [[6]]]]))
    said = ("--dtype", "float32", "--shape", "1,1,2,1")
    assert called("verify", "x.png", "--kernel", "k.bin", "--expected", "y.npy", *said, "-q")[0] == 0
    Path("1 2.txt").write_text("1 2")
    assert called("unroll", "1 2.txt", "--k", "1", *said, "-q")[0] == 0
    assert called("unroll", "x.png", "--k", "1", "--kernel", "box:2", "-q")[0] == 2  # no such option


HOSTILE = {
    ("x.bin",): r"x\.bin: is not an \.npy array; of numbers alone say what they are: FILE:float32:1x56x56x64",
    ("x.bin:2x3",): r"x\.bin: is numbers of a dtype that it does not tell; give --dtype, or FILE:float32:1x5",
    ("x.bin:float32:2x2",): r"has 24 bytes or more, float32 of shape \(2, 2\) has 16; give its dtype and sh",
    ("x.bin:float32:2x4",): r"has 24 bytes, float32 of shape \(2, 4\) has 32; give its dtype and shape",
    ("x.bin", "--dtype", "float64", "--shape", "2,3"): r"has 24 bytes, float64 of shape \(2, 3\) has 48",
    (f"x.bin:int8:{10**40}x2",): r"cannot have the shape \(a number of 41 digits, 2\), more than any array",
    (f"x.bin:int8:{10**15}x2",): r"has 24 bytes, int8 of shape \(1000000000000000, 2\) has 2000000000000000",
    ("x.bin:int8:2x-3",): r"x\.bin: 'int8:2x-3' is no dtype and shape; write FILE:float32:1x56x56x64",
    ("x.bin:int8:2:3",): r"x\.bin: 'int8:2:3' is no dtype and shape",
    ("x.bin:",): r"x\.bin: '' is no dtype and shape",
    (
        "x.bin:object:2",
    ): r"x\.bin: 'object' is no dtype of numbers; give one of NumPy's, or of bfloat16, floa",
    ("x.bin:V2:2",): r"'V2' is no dtype of numbers",
    (
        "v2.npy",
    ): r"v2\.npy: holds values of dtype '\|V2', as ml_dtypes' bfloat16 is saved, .*--dtype bfloat16",
    ("v2.npy", "--dtype", "int8"): r"v2\.npy: holds values of 2 bytes, int8 has 1; give another --dtype",
    ("v3.npy", "--dtype", "int8"): r"v3\.npy: holds \|V3 values; expected booleans",
    ("x.bin", "--shape", "-1"): r"-1' has a size below 0; write 1,56,56,64",
    ("x.bin", "--shape", "a"): r"'a' is no size; write 1,56,56,64 or 1x56x56x64",
    ("x.bin", "--dtype", "i4,f4", "--shape", "3"): r"'i4,f4' is no dtype of numbers",
    ("x.bin", "--dtype", "tf32", "--shape", "6"): r"'tf32' is no dtype of numbers",
    ("nothing.bin:float32:2",): r"nothing\.bin:float32:2: (cannot be read: No such|is neither a) file",
}


@pytest.mark.parametrize("words", HOSTILE, ids=" ".join)
@pytest.mark.parametrize("command", ["flatten-filters", "unroll"])
def test_wrong_words_are_told_in_one_line(
    words: tuple[str, ...], command: str, folder: Path, called: Any
) -> None:
    np.zeros(6, np.float32).tofile("x.bin")
    save_narrow("v2.npy", HALVES)
    np.save("v3.npy", np.zeros(2, "V3"))
    more = ("--k", "1") if command == "unroll" else ()
    status, out, err = called(command, *words, *more)
    assert (status, out, err.count("\n")) == (2, "", 1)
    with pytest.raises(AssertionError, match=HOSTILE[words]):
        raise AssertionError(err)


def test_what_is_said_of_names(folder: Path) -> None:
    """Nothing of a name that exists, of an archive's arrays, or of what is no file."""
    np.savez("a.npz", float32=HALVES)
    Path("x.bin:int8").write_bytes(b"12")
    for name in ("a.npz:float32", "x.bin:int8", "box:3", "1 0; 0 1", "none:int8:2"):
        assert described(name) == name
        assert said_of(described(name)) == (None, None, False)
    assert said_of(described("box:3", "int8")) == ("int8", None, False)


# Verdicts


def layer(seed: int = 0) -> tuple[Any, Any, Any]:
    """Input and filters of bfloat16 values, and their result in float32."""
    random = np.random.default_rng(seed)
    x, w = (BFLOAT16.round(random.standard_normal(s).astype("f4")) for s in ((2, 7, 6, 3), (4, 3, 3, 3)))
    return x, w, cm.convolve(x, w)


@pytest.mark.parametrize("name", CODED)
def test_a_result_is_judged_in_its_format(name: str) -> None:
    """Rounded it is right, cut off it is not, nor what float32 would be judged by."""
    x, w, y = layer()
    form = FORMATS[name]
    y, w = y * (0.9 * form.largest / np.abs(y).max() if form.bits < 8 else 1), w
    w = w * np.float32(y.flat[0] / cm.convolve(x, w).flat[0])
    right = cm.convolve(x, w)
    report = cm.verify(x, w, narrow(form.round(right), form))
    assert report
    assert report.dtype == name
    assert 0.5 < report.error_over_bound <= 1
    assert not cm.verify(x, w, form.round(right))
    cut = cm.verify(x, w, narrow(form.truncate(right), form))
    assert 0 < cut.outside < cut.elements
    assert 0.5 < (cut.ulps or 0) <= 1


def test_whole_numbers_are_exact_as_far_as_the_format_goes() -> None:
    """Below 2^8 in bfloat16 a sum is met exactly, whatever the bound would allow."""
    x, w = np.full((1, 3, 3, 1), 11, np.float32), np.ones((1, 3, 3, 1), np.float32)
    for total, exact in ((99, True), (9 * 88, False)):
        report = cm.verify(total / 99 * x, w, narrow(np.full((1, 1, 1, 1), total), BFLOAT16))
        assert report
        assert report.exact == exact
        wrong = narrow(np.full((1, 1, 1, 1), total + 1), BFLOAT16)
        assert bool(cm.verify(total / 99 * x, w, wrong)) != exact


@pytest.mark.parametrize(("value", "equal"), [(448, True), (np.nan, True), (-448, False), (240, False)])
def test_what_float8_cannot_hold_may_be_any_of_three(value: float, equal: bool) -> None:
    x, w = np.full((1, 1, 1, 1), 31.7, np.float32), np.full((1, 1, 1, 1), 31.7, np.float32)
    form = FORMATS["float8_e4m3fn"]
    assert bool(cm.verify(x, w, narrow(np.full((1, 1, 1, 1), value), form))) == equal
    assert not cm.verify(x, w, narrow(np.full((1, 1, 1, 1), 448), BFLOAT16))


def test_a_narrow_result_is_diagnosed(folder: Path, called: Any) -> None:
    x, w, _ = layer()
    wrong = BFLOAT16.round(cm.convolve(x, w[:, ::-1]))
    found = diagnose(x, w, narrow(wrong, BFLOAT16))
    assert [one.mistakes for one in found] == [("flipped-up-down",)]
    save_narrow("x.npy", x)
    bits_of(w).tofile("w.bin")
    save_narrow("y.npy", wrong)
    told = ("--kernel", "w.bin:4x3x3x3", "--expected", "y.npy", "--dtype", "bfloat16")
    status, out, _ = called("verify", "x.npy", *told)
    assert status == 1
    assert "the filter flipped up-down" in out
    assert "│ result dtype             │ bfloat16 " in out
    status, out, _ = called("verify", "x.npy", "--kernel", "w.bin:4x3x3x3", "--dtype", "bfloat16", "--brief")
    assert (status, out.split(":")[0]) == (0, "equal")


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2"])
def test_comparing_knows_the_format(dtype: str) -> None:
    report = cm.compare(narrow(HALVES, FORMATS[dtype]), HALVES + np.float32([[0.25, 0], [0, 0]]))
    assert (report.dtype, report.outside, report.ulps) == (dtype, 1, 0.25 * 2 ** (FORMATS[dtype].bits - 1))


# From other libraries


class Exchanged:
    """What has DLPack and nothing else."""

    def __init__(self, array: Any, device: int = 1) -> None:
        self._array, self._device = array, device
        self.device = "cuda:0"

    def __dlpack__(self, **how: Any) -> Any:
        if self._device != 1:
            raise BufferError("not here")
        return self._array.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0


class Tensor:
    """As PyTorch's: no array while it requires a gradient, nor of numbers that NumPy has no dtype for."""

    def __init__(self, array: Any, dtype: str = "torch.float32", gradient: bool = True) -> None:
        self.array, self.dtype, self._gradient = array, dtype, gradient

    def detach(self) -> Tensor:
        return Tensor(self.array, self.dtype, False)

    def float(self) -> Tensor:
        return Tensor(self.array, "torch.float32", self._gradient)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if self._gradient or self.dtype != "torch.float32":
            raise TypeError("Can't call numpy() on this")
        return self.array


def test_tensors_are_taken_as_they_are() -> None:
    x, w, y = layer()
    for kind in (Exchanged, Tensor):
        assert cm.verify(kind(x), kind(w), kind(y))
        np.testing.assert_array_equal(cm.convolve(kind(x), kind(w)), y)
    rounded = BFLOAT16.round(y)
    report = cm.verify(Tensor(x, "torch.bfloat16"), Tensor(w), Tensor(rounded, "torch.bfloat16"))
    assert report
    assert report.dtype == "bfloat16"
    assert not cm.verify(x, w, rounded)
    assert cm.compare(Tensor(y), Exchanged(y))
    assert type(cm.unroll(narrow(x, BFLOAT16), 3)) is np.ndarray


def test_a_tensor_elsewhere_says_how_to_bring_it() -> None:
    x, w, y = layer()
    with pytest.raises(ShapeError, match=r"^expected: is on cuda:0; copy it to the CPU: y\.cpu\(\)$"):
        cm.verify(x, w, Exchanged(y, device=2))
    half = SimpleNamespace(__dlpack__=lambda **_: None, __dlpack_device__=lambda: (1, 0))
    half.__dlpack__ = half.__dlpack_device__  # not even a capsule
    broken = type("Broken", (), {"__dlpack__": lambda self, **_: 1, "__dlpack_device__": lambda self: (1, 0)})
    with pytest.raises(
        ShapeError, match=r"^input: is not read: .*; convert it before, as y\.float\(\) does$"
    ):
        cm.verify(broken(), w, y)


def test_arrays_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, w, y = layer()
    x, w, rounded = (a.astype(ml_dtypes.bfloat16) for a in (x, w, y))
    assert cm.verify(x, w, rounded).dtype == "bfloat16"
    np.testing.assert_array_equal(cm.convolve(x, w), y)
    strided = rounded[:, ::-1]
    np.testing.assert_array_equal(as_array(strided), strided.astype(np.float32))
    assert format_of(as_array(strided)) == BFLOAT16
    assert as_array(np.arange(-8, 8).astype(ml_dtypes.int4)).dtype == np.int8
    assert (form := format_of(as_array(np.zeros(2, ml_dtypes.float6_e2m3fn)))) and form.bits == 4
    with pytest.raises(
        DTypeError, match=r"^result: '\w+complex32' is no dtype of numbers|^result: has dtype"
    ):
        cm.compare(np.zeros(2, getattr(ml_dtypes, "bcomplex32", "V4")), [0, 0])


def test_views_keep_the_format_and_copies_of_arrays_lose_it() -> None:
    known = narrow(np.zeros((2, 3, 4)), BFLOAT16)
    assert isinstance(known, Narrow)
    for view in (known[0], known.reshape(6, 4), np.moveaxis(known, 1, -1)):
        assert format_of(view) == BFLOAT16
    assert format_of(np.asarray(known)) == format_of(np.zeros(1, np.float32)) == FORMATS["float32"]
    assert format_of(np.zeros(1, np.int8)) is None


# In other layouts, and the whole story


def test_layouts_of_verify() -> None:
    """The same verdict, with shapes and indices of the result as it was given."""
    x, w, y = layer()
    y[1, 2, 3, 1] += 1
    plain = cm.verify(x, w, y)
    for layout, kernel_layout, k in (("nchw", "oihw", (0, 3, 1, 2)), ("nchw", "hwio", (1, 2, 3, 0))):
        given = (np.moveaxis(x, -1, 1), w.transpose(k), np.moveaxis(y, -1, 1))
        report = cm.verify(*given, layout=layout, kernel_layout=kernel_layout)
        assert (report.outside, report.worst, report.axes) == (1, (1, 1, 2, 3), ("n", "k", "y", "x"))
        assert given[2][report.worst] == report.worst_values[0] == plain.worst_values[0]
        assert report.outside_at == (report.worst,)
        assert report.shape == given[2].shape
        assert "worst element             n 1, k 1, y 2, x 3" in repr(report)
    rows = y.reshape(-1, 4)
    assert cm.verify(np.moveaxis(x, -1, 1), w, rows, layout="nchw").outside == 1
    assert plain.worst == (1, 2, 3, 1)
    wrong = cm.verify(np.moveaxis(x, -1, 1), w, y, layout="nchw")
    assert str(wrong).startswith("different: shape 2 × 5 × 4 × 4, expected 2 × 4 × 5 × 4")


def test_exceptions_are_told_in_the_layout_of_the_result() -> None:
    x, w, _ = layer()
    y = cm.convolve(x, w[:, ::-1])
    y[1, 2, 3, 1] += 1
    found = diagnose(np.moveaxis(x, -1, 1), w, np.moveaxis(y, -1, 1), layout="nchw")
    assert [one.exceptions for one in found] == [((1, 1, 2, 3),)]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"layout": "nhw"}, "layout: unknown 'nhw'; give one of nhwc, nchw"),
        ({"kernel_layout": "iohw"}, "kernel_layout: unknown 'iohw'; give one of ohwi, oihw, hwio"),
    ],
)
def test_layouts_that_are_none(how: dict[str, str], problem: str) -> None:
    x, w, y = layer()
    with pytest.raises(cm.ConvmatError, match=problem):
        cm.verify(x, w, y, **how)


def test_a_report_tells_the_whole_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdict first and diagnosis last, which is what pytest leaves of it; looked for once, if asked."""
    from _pytest._io.saferepr import saferepr

    x, w, _ = layer()
    report = cm.verify(x, w, cm.convolve(x, w[:, ::-1]))
    assert report.diagnose is not None
    asked = []
    diagnosed = report.diagnose.func
    monkeypatch.setattr("convmat.verification.edge.diagnose", lambda **_: pytest.fail("made too early"))
    once = cm.Report(**{**vars(report), "diagnose": lambda: asked.append(1) or report.diagnose()})
    assert not asked
    lines = repr(once).split("\n")
    assert lines[0] == "different: 160 of 160 elements, the filter flipped up-down"
    assert lines[1] == "  result                    2 × 5 × 4 × 4"
    assert lines[-1] == "your output equals the correct one with the filter flipped up-down"
    assert repr(once) == "\n".join(lines)
    assert asked == [1]
    short = saferepr(once, 240)
    assert short.startswith(lines[0])
    assert short.endswith(lines[-1])
    assert diagnosed is diagnose


def test_a_report_without_a_diagnosis() -> None:
    """Of an equal result, of arrays alone, and where there is no finding one."""
    x, w, y = layer()
    assert repr(cm.verify(x, w, y)).startswith("equal: ")
    assert cm.verify(x, w).diagnose is None
    assert "diagnos" not in repr(cm.compare(y, -y))

    def failing() -> Any:
        raise cm.ConvmatError("expected", "is too much")

    report = cm.Report(**{**vars(cm.compare(y, -y)), "diagnose": failing})
    assert repr(report).endswith("\nno diagnosis: expected: is too much")
    assert repr(cm.verify(x, w, 3 * y + 1)).split("\n")[-2] == "no known mistake explains it"
