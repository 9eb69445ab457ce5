"""The commands: what they write, print and exit with, in process; pipes and signals in real processes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import convmat as cm
from convmat import native
from convmat.cli import cli, options, run
from convmat.cli.manual import contexts
from convmat.layouts import from_batch
from convmat.sizes import coverage
from tests.tools import DIGIT, EDGES, SCENE, STROKES, shell

pytestmark = pytest.mark.usefixtures("samples")

CONTEXTS = [ctx for ctx in contexts() if not isinstance(ctx.command, click.Group)]
COMMANDS = [ctx.command_path.partition(" ")[2] for ctx in CONTEXTS]


@pytest.fixture
def ok(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command that must do well; what it printed on standard output."""

    def call(*args: str, status: int = 0, stderr: str = "") -> str:
        assert run(list(args)) == status
        out, err = capsys.readouterr()
        assert err == stderr
        return out

    return call


@pytest.fixture
def facts(ok: Any) -> Any:
    """Run a command with --json; the object it printed."""

    def call(*args: str, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ok(*args, "--json", status=status))
        return found

    return call


# unroll


def test_the_papers_example(ok: Any) -> None:
    out = ok("unroll", DIGIT, "--k", "7", "--stride", "7")
    for text in (
        "16 × 49",
        "4 × 4",
        "floor((28 + 0 + 0 - 7) / 7) + 1 = 4",
        "top 0, bottom 0, left 0, right 0",
    ):
        assert text in out
    assert re.search(r"│ 13 +│ 0, 3, 1 +│ 21..27, 7..13 +│ 38 8 1 0", out)


def test_unroll_json_has_stable_keys(facts: Any) -> None:
    found = facts("unroll", SCENE, "-k", "3,5", "-s", "1,2", "-p", "1,2", "-d", "2,1")
    g = cm.ConvGeometry((1, 256, 384, 3), (3, 5), (1, 2), (1, 2), (2, 1))
    assert found == {
        "input": [SCENE],
        "turned": None,
        "input_shape": [1, 256, 384, 3],
        "kernel_size": [3, 5],
        "stride": [1, 2],
        "dilation": [2, 1],
        "padding": None,
        "padding_mode": "zeros",
        "pads": [[1, 1], [2, 2]],
        "output_depth": None,
        "output_height": g.output_size[0],
        "output_width": g.output_size[1],
        "output_size": list(g.output_size),
        "patches": g.patches,
        "matrix_shape": list(g.matrix_shape),
        "order": "hwc",
        "dtype": "uint8",
        "bytes": g.matrix_shape[0] * g.matrix_shape[1],
        "repeats": coverage(g).mean,
        "uncovered": 0,
        "rows": g.matrix_shape[0],
        "figure": None,
        "animation": None,
    }


@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["-s", "2,3", "-p", "same"], {"stride": (2, 3), "padding": "same"}),
        (
            ["-p", "1,2,0,3", "--padding-mode", "reflect"],
            {"padding": ((1, 2), (0, 3)), "padding_mode": "reflect"},
        ),
        (["-d", "2", "-p", "half"], {"dilation": 2, "padding": "half"}),
    ],
)
def test_unroll_writes_what_the_library_gives(
    options: list[str], arguments: dict[str, Any], order: str, ok: Any
) -> None:
    ok("unroll", SCENE, "-k", "4", *options, "--order", order, "-o", "x.npy", "-q")
    pixels = np.asarray(Image.open(SCENE))[None]
    np.testing.assert_array_equal(np.load("x.npy"), cm.unroll(pixels, 4, **arguments, order=order))


def test_per_image_is_a_matrix_for_each_image(ok: Any) -> None:
    np.save("batch.npy", np.arange(3 * 6 * 6 * 2).reshape(3, 6, 6, 2))
    assert "3 × 9 × 8" in ok("unroll", "batch.npy", "-k", "2", "-s", "2", "--per-image", "-o", "x.npy")
    np.testing.assert_array_equal(np.load("x.npy").reshape(27, 8), cm.unroll(np.load("batch.npy"), 2, 2))


def test_images_of_one_size_are_a_batch(ok: Any) -> None:
    ok("unroll", DIGIT, DIGIT, DIGIT, "-k", "7", "-s", "7", "-q", "-o", "x.npy")
    x_col = np.load("x.npy")
    assert x_col.shape == (48, 49)
    np.testing.assert_array_equal(x_col[:16], x_col[32:])


@pytest.mark.parametrize(
    ("shape", "options", "as_batch"),
    [
        ((6, 5), [], (1, 6, 5, 1)),
        ((6, 5, 2), [], (1, 6, 5, 2)),
        ((3, 6, 5, 2), [], (3, 6, 5, 2)),
        ((9,), ["--dims", "1"], (1, 9, 1)),
        ((9, 2), ["--dims", "1"], (1, 9, 2)),
        ((4, 9, 2), ["--dims", "1"], (4, 9, 2)),
        ((5, 4, 3), ["--dims", "3"], (1, 5, 4, 3, 1)),
        ((2, 5, 4, 3, 2), ["--dims", "3"], (2, 5, 4, 3, 2)),
        ((5, 4, 3), ["-k", "3,2,1"], (1, 5, 4, 3, 1)),
    ],
)
def test_arrays_of_any_form(
    shape: tuple[int, ...], options: list[str], as_batch: tuple[int, ...], ok: Any
) -> None:
    x = np.arange(np.prod(shape), dtype=">i2").reshape(shape)
    np.save("a.npy", x)
    size = (3, 2, 1) if "-k" in options else 2
    ok("unroll", "a.npy", "-k", "2", *options, "-q", "-o", "x.npy")
    x_col = np.load("x.npy")
    assert x_col.dtype == x.dtype
    np.testing.assert_array_equal(x_col, cm.unroll(x.reshape(as_batch), size))


def test_channels_first_in(ok: Any) -> None:
    x = np.arange(2 * 3 * 6 * 5).reshape(2, 3, 6, 5)
    np.save("a.npy", x)
    np.save("b.npy", x[0])
    ok("unroll", "a.npy", "-k", "2", "--layout", "nchw", "-q", "-o", "x.npy")
    np.testing.assert_array_equal(np.load("x.npy"), cm.unroll(x.transpose(0, 2, 3, 1), 2))
    ok("unroll", "b.npy", "-k", "2", "--layout", "nchw", "-q", "-o", "x.npy")
    np.testing.assert_array_equal(np.load("x.npy"), cm.unroll(x[:1].transpose(0, 2, 3, 1), 2))


def test_dry_run_reads_headers_and_writes_nothing(facts: Any) -> None:
    whole = Path(SCENE).read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    assert facts("unroll", "cut.png", "-k", "3", "--dry-run", "-o", "x.npy")["output_size"] == [254, 382]
    assert not Path("x.npy").exists()


def test_warns_of_pixels_that_the_stride_drops(ok: Any) -> None:
    x_col = cm.unroll(np.arange(28 * 28).reshape(1, 28, 28, 1), 2, 3)
    missed = 28 * 28 - np.unique(x_col).size
    told = f"{missed} pixels of each image are in no patch; another --stride or --padding covers them"
    out = ok("unroll", DIGIT, "-k", "2", "-s", "3", stderr=f"convmat: warning: {told}\n")
    assert f"{missed} of 784" in out
    ok("unroll", DIGIT, "-k", "2", "-s", "3", "-q")


# flatten-filters, matmul, convolve


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((3, 2), [], None),
        ((4, 3, 2), [], None),
        ((4, 3, 2, 5), [], (0, 1, 2, 3)),
        ((4, 5, 3, 2), ["--kernel-layout", "oihw"], (0, 2, 3, 1)),
        ((3, 2, 5, 4), ["--kernel-layout", "hwio"], (3, 0, 1, 2)),
    ],
)
def test_flatten_filters_in_every_form(shape: Any, options: list[str], axes: Any, ok: Any) -> None:
    kernels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save("k.npy", kernels)
    filters = kernels.reshape((-1, 3, 2, 1)) if axes is None else kernels.transpose(axes)
    for order in ("hwc", "chw"):
        ok("flatten-filters", "k.npy", *options, "--order", order, "-q", "-o", "w.npy")
        np.testing.assert_array_equal(np.load("w.npy"), cm.flatten_filters(filters, order=order))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ([], (32, 3)),
        (["--output-shape", "4,4"], (2, 4, 4, 3)),
        (["--output-shape", "2,4,4"], (2, 4, 4, 3)),
        (["--output-shape", "16"], (2, 16, 3)),
        (["--output-shape", "2,4,4", "--dims", "3"], (1, 2, 4, 4, 3)),
    ],
)
def test_matmul(options: list[str], shape: tuple[int, ...], ok: Any) -> None:
    x, w = np.arange(32 * 9, dtype=np.uint8).reshape(32, 9), np.full((9, 3), 255, np.uint8)
    np.save("x.npy", x)
    np.save("w.npy", w)
    assert " × ".join(map(str, shape)) in ok("matmul", "x.npy", "w.npy", *options, "-o", "y.npy")
    y = np.load("y.npy")
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, (x.astype(int) @ w.astype(int)).reshape(shape))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--kernel", EDGES], {}),
        (
            ["--kernel", EDGES, "--bias", "sample_images/bias_8.npy", "-s", "2"],
            {"stride": 2, "bias": "bias_8"},
        ),
        (["--kernel", EDGES, "--flip", "-p", "same"], {"flip": True, "padding": "same"}),
        (
            ["--kernel", EDGES, "-d", "3", "-p", "2", "--padding-mode", "circular"],
            {"dilation": 3, "padding": 2, "padding_mode": "circular"},
        ),
    ],
)
def test_convolve_writes_what_the_library_gives(
    options: list[str], arguments: dict[str, Any], ok: Any
) -> None:
    ok("convolve", SCENE, *options, "-q", "-o", "y.npy")
    if "bias" in arguments:
        arguments = arguments | {"bias": np.load("sample_images/bias_8.npy")}
    y = cm.convolve(np.asarray(Image.open(SCENE))[None], np.load(EDGES), **arguments)
    assert np.load("y.npy").dtype == y.dtype
    np.testing.assert_array_equal(np.load("y.npy"), y)


def test_layouts_go_in_and_out(ok: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 9, (2, 4, 7, 6)), rng.integers(0, 9, (6, 2, 3, 3))
    np.save("x.npy", x)
    np.save("w.npy", w)
    options = ["--kernel", "w.npy", "--layout", "nchw", "--kernel-layout", "oihw", "-g", "2"]
    ok("convolve", "x.npy", *options, "-q", "-o", "y.npy")
    y = cm.convolve(x.transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1), groups=2)
    np.testing.assert_array_equal(np.load("y.npy"), y.transpose(0, 3, 1, 2))
    ok("verify", "x.npy", *options, "--expected", "y.npy", "-q")


def test_depthwise_filters_each_channel(ok: Any) -> None:
    pixels = np.asarray(Image.open(SCENE))
    ok("convolve", SCENE, "--kernel", "sobel-x", "--depthwise", "-q", "-o", "y.npy")
    for c in range(3):
        alone = cm.convolve(pixels[None, ..., c : c + 1], cm.kernels.named_kernel("sobel-x")[None, ..., None])
        np.testing.assert_array_equal(np.load("y.npy")[..., c], alone[..., 0])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_convolve_draws_pictures(suffix: str, ok: Any) -> None:
    out = ok("convolve", SCENE, "--kernel", "box:3", "--depthwise", "-o", f"blur{suffix}")
    assert "values kept, rounded to 0..255" in out
    y = cm.convolve(np.asarray(Image.open(SCENE))[None], np.full((3, 3, 3, 1), 1 / 9), groups=3)
    np.testing.assert_array_equal(np.asarray(Image.open(f"blur{suffix}")), np.rint(y[0]))
    out = ok("convolve", DIGIT, "--kernel", "sobel-x", "-o", f"edges{suffix}")
    low, high = re.findall(r"values (-\d+) \.\. (\d+) stretched", out)[0]
    drawn = np.asarray(Image.open(f"edges{suffix}"))
    assert (drawn.min(), drawn.max()) == (0, 255)
    y = cm.convolve(
        np.asarray(Image.open(DIGIT))[None, ..., None], cm.kernels.named_kernel("sobel-x")[None, ..., None]
    )
    assert (y.min(), y.max()) == (int(low), int(high))


# verify, sizes


def test_verify_judges_engine_and_yours(ok: Any, facts: Any) -> None:
    layer = [DIGIT, "--kernel", STROKES, "--stride", "7"]
    assert facts("verify", *layer)["equal"] is True
    ok("convolve", *layer, "-q", "-o", "y.npy")
    y = np.load("y.npy")
    for form in (y, y[0], y.reshape(16, 2), y.astype(np.float32)):
        np.save("mine.npy", form)
        assert facts("verify", *layer, "--expected", "mine.npy")["outside"] == 0
    y[0, 2, 3, 1] += 1
    np.save("mine.npy", y)
    found = facts("verify", *layer, "--expected", "mine.npy", status=1)
    assert (found["equal"], found["outside"], found["worst"], found["max_abs_error"]) == (
        False,
        1,
        [0, 2, 3, 1],
        1,
    )
    assert "different" in ok("verify", *layer, "--expected", "mine.npy", status=1)
    np.save("mine.npy", y[:, :3])
    assert facts("verify", *layer, "--expected", "mine.npy", status=1)["definition_shape"] == [1, 4, 4, 2]


def test_verify_alone_checks_itself(facts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts("verify")
    assert found["equal"] is True
    assert found["cases"] == sum(family["cases"] for family in found["families"]) > 300
    monkeypatch.setattr("convmat.verification.families.flatten_filters", lambda *_, **__: 1 / 0)
    found = facts("verify", status=1)
    assert found["equal"] is False
    family = next(family for family in found["families"] if family["family"] == "flatten-filters")
    assert family["equal"] is False
    assert "ZeroDivisionError" in family["differences"][0]["trouble"]


def test_sizes(ok: Any, facts: Any) -> None:
    out = ok("sizes", "224", "--k", "7", "--stride", "2")
    assert re.search(r"same +│ 2, 3 +│ floor\(\(224 \+ 2 \+ 3 - 7\) / 2\) \+ 1 = 112 +│ 112", out)
    rules = facts("sizes", "5,9", "-k", "7,3", "-p", "1,2,0,3")["rules"]
    assert rules["valid"] is None
    assert rules["full"] == {"pads": [[6, 6], [2, 2]], "output_size": [11, 11]}
    assert rules["yours"] == {"pads": [[1, 2], [0, 3]], "output_size": [2, 10]}


# trouble


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"unroll {DIGIT} --k 0", "--k: must be at least 1 along every axis, got 0"),
        (f"unroll {DIGIT} --k 3 --stride 0", "--stride: must be at least 1 along every axis, got 0"),
        (f"unroll {DIGIT} --k 3 --dilation 0,1", r"--dilation: must be at least 1 .* got \(0, 1\)"),
        (f"unroll {DIGIT} --k 3 --padding -1", "--padding: must be at least 0 .* got -1"),
        (
            f"unroll {DIGIT} --k 30",
            "--k: the kernel spans 30 pixels of height, .* 28 .* = 28; use a smaller kernel",
        ),
        (f"unroll {DIGIT} --k 3,3,3", "digit.png: is an image and has 2 spatial axes, not 3"),
        (f"unroll {DIGIT} --k 3 -p 1,2,3", "--padding: got 3 numbers .* 2 spatial axes"),
        (f"unroll {DIGIT} --k three", "'--k' .* 'three' is no size; write 7"),
        (f"unroll {DIGIT} --k 3 -p some", "'some' is no padding; give valid, same"),
        (
            f"unroll {DIGIT} {SCENE} {DIGIT} --k 3",
            "scene.png: is 256 × 384 × 3 uint8, the others are 28 × 28 × 1",
        ),
        ("unroll - - --k 3", "standard input: is named twice"),
        ("unroll none.png --k 3", "none.png: cannot be read: No such file"),
        (f"unroll {STROKES} --k 3 --dims 1", r"\S*npy: has 4 axes .* with 1 spatial axes"),
        (f"unroll {DIGIT} -k 3 -o none/x.npy", "none/x.npy: cannot be written: No such file"),
        (f"unroll {DIGIT} -k 3 -o sample_images", "sample_images: is a folder"),
        (f"convolve {SCENE}", "Missing option '--kernel'; give an .npy file or one of sobel-x"),
        (
            f"convolve {SCENE} --kernel sobel-x",
            r"--kernel: .* 3 × 3 cannot filter 3 channels; add --depthwise",
        ),
        (
            f"convolve {DIGIT} --kernel {EDGES}",
            r"--kernel: made for 3 channels .* has 1 in all; give filters of 1 channels",
        ),
        (f"convolve {SCENE} --kernel {EDGES} -g 2", "--groups: 2 does not divide the input's 3 channels"),
        (
            f"convolve {SCENE} --kernel {EDGES} -g 3 --depthwise",
            "--kernel: 8 filters of 3 channels cannot filter 3",
        ),
        (
            f"convolve {SCENE} --kernel {EDGES} --bias {EDGES}",
            r"--bias: has shape \(8, 3, 3, 3\), 8 filters take",
        ),
        (
            f"convolve {SCENE} --kernel {EDGES} -o y.png",
            r"--output: has shape \(1, 254, 382, 8\), a picture shows",
        ),
        (f"convolve {SCENE} --kernel box", "--kernel: 'box' has no size"),
        (f"convolve {SCENE} --kernel sobell", "sobell: is neither a file nor one of sobel-x"),
        (f"convolve {SCENE} --kernel {DIGIT}", "digit.png: is not an .npy array"),
        (f"matmul {STROKES} {STROKES}", r"\S*npy: has shape \(2, 7, 7, 1\), expected \(n, K\)"),
        ("matmul - -", "X and W cannot both be standard input"),
        (f"flatten-filters {EDGES} -g 3", "--groups: 3 does not divide the 8 filters; give a divisor of 8"),
        (f"flatten-filters {EDGES} --dims 1", r"\S*npy: have 4 axes"),
        ("verify --kernel sobel-x", "Missing argument 'INPUT'"),
        (f"verify {DIGIT}", "Missing option '--kernel'"),
        (f"verify {DIGIT} --kernel sobel-x --expected none.npy", "none.npy: cannot be read"),
        ("sizes 5 --k 0", "--k: must be at least 1"),
        ("sizes 5,6,7,8 --k 3", "'5,6,7,8' has 4 numbers; give at most 3"),
        ("unrol", "No such command 'unrol'.*; see 'convmat --help'"),
        ("unroll --colour", "No such option.*--colour.*; see 'convmat unroll --help'"),
    ],
)
def test_trouble_is_one_line_and_status_2(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(f"convmat: .*({told})", err), err
    assert sorted(Path().rglob("*")) == before


def test_what_must_not_happen_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmat.cli.stages.self_check", lambda *_, **__: 1 / 0)
    assert run(["verify"]) == 2
    assert capsys.readouterr().err.startswith("convmat: internal error: ZeroDivisionError: ")
    for debug in (["--debug", "verify"], ["verify", "--debug"]):
        assert run(debug) == 2
        assert "Traceback (most recent call last)" in capsys.readouterr().err


# help


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "train")) for name in COMMANDS]
)
def test_help_opens_with_examples_that_work(name: str, ok: Any) -> None:
    text = ok(*name.split(), "--help")
    examples = re.findall(r"^ +convmat (.*)$", text.split("Example:")[1].split("\n\n")[0], re.MULTILINE)
    assert examples
    assert text.index("Example:") < text.index(f"convmat {examples[0]}") < 400
    for example in examples:
        assert run(example.split()) == 0


@pytest.mark.parametrize("ctx", CONTEXTS, ids=COMMANDS)
def test_every_option_has_help(ctx: click.Context) -> None:
    for parameter in ctx.command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_group_help_lists_commands(ok: Any) -> None:
    text = ok("--help")
    for name in cli.list_commands(click.Context(cli)):
        assert f"\n  {name} " in text
    sections = re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE)
    assert sections == ["Options", "The equivalence", "Check", "Look", "Learn"]
    assert ok("probe", "--help").count("\n  write ") == 1
    assert ok("--version") == f"convmat {cm.__version__} ({native.status()})\n"


@pytest.mark.parametrize("ctx", CONTEXTS, ids=COMMANDS)
def test_help_is_in_sections(ctx: click.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option once, those of a layer and of what comes out under their headings; two screens at most."""
    monkeypatch.setenv("COLUMNS", "80")
    text = click.Context(ctx.command, ctx.parent, ctx.info_name).get_help()
    known = ["Options", "The layer", "Arrays and images", "Output"]
    sections = re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE)
    assert sections == [title for title in known if title in sections]
    part = dict(re.findall(r"^(\w[\w ]+):\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL))
    homes = {"--stride": "The layer", "--layout": "Arrays and images", "--json": "Output", "--help": "Output"}
    names = [name for option in ctx.command.get_params(ctx) for name in option.opts if name[:2] == "--"]
    for name in names:
        holding = [
            title
            for title, lines in part.items()
            if re.search(rf"^  (-\w, )?{name}(?![\w-])", lines, re.MULTILINE)
        ]
        assert holding == [homes[name]] if name in homes else len(holding) == 1, name
    assert "[INPUT]" not in "".join(part.values())
    assert text.count("\n") < 120
    assert max(len(line) for line in text.split("\n") if "convmat " not in line) <= 80


@pytest.mark.parametrize("ctx", CONTEXTS, ids=COMMANDS)
def test_a_command_is_a_call_that_works_and_one_that_writes(ctx: click.Context) -> None:
    [function] = ast.parse(inspect.getsource(inspect.unwrap(ctx.command.callback))).body  # type: ignore[arg-type]
    docstring, *body = function.body  # type: ignore[attr-defined]
    assert body[-1].end_lineno - docstring.end_lineno <= 30


def test_the_options_of_a_layer_are_one_value() -> None:
    """What a command does not ask for is at its default, and nothing else of a layer reaches it."""
    asked: list[Any] = []

    @click.command("some")
    @options.layer_of(options.k_option(), options.step_options)
    @click.option("--more")
    def some(layer: options.LayerOptions, more: str | None) -> None:
        asked.append((layer, more))

    some.main(["--k", "3", "-p", "1,2,0,1", "--more", "x"], standalone_mode=False)
    [(layer, more)] = asked
    assert (layer, more) == (options.LayerOptions(kernel_size=3, padding=(1, 2, 0, 1)), "x")
    assert (layer.axes, layer.steps) == (2, {"stride": 1, "padding": ((1, 2), (0, 1)), "dilation": 1})
    names = {parameter.name for ctx in CONTEXTS for parameter in ctx.command.params}
    assert {field.name for field in dataclasses.fields(layer)} <= names
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.stride = 2


# real processes


def test_pipeline_in_a_shell() -> None:
    status, out, err = shell(
        f"convmat flatten-filters {STROKES} -q -o w.npy && "
        f"convmat unroll {DIGIT} --k 7 --stride 7 -q -o - | "
        f"convmat matmul - w.npy --output-shape 4,4 -q -o - | "
        f"convmat verify {DIGIT} --kernel {STROKES} --stride 7 --expected - && echo same"
    )
    assert (status, err) == (0, "")
    assert out.endswith("same\n")


def test_data_and_nothing_else_on_standard_output() -> None:
    status, out, err = shell(f"convmat unroll {DIGIT} --k 7 --stride 7 -o -")
    assert status == 0
    assert np.load(io.BytesIO(out.encode("latin-1"))).shape == (16, 49)
    assert "16 × 49" in err


@pytest.mark.parametrize("source", [DIGIT, SCENE])
def test_a_reader_that_leaves_is_no_trouble(source: str) -> None:
    """Whether the rest fits in the pipe or not; 141 as for any program that SIGPIPE ends."""
    status, out, err = shell(
        f"set -o pipefail; convmat unroll {source} --k 3 -o - | head -c 10 > out; cat out"
    )
    assert (status, out[:6], err) == (0, "\x93NUMPY", "")
    status, _, err = shell(f"convmat unroll {source} --k 3 -o - | head -c 10 > out; exit ${{PIPESTATUS[0]}}")
    assert (status, err) == (141, "")


@pytest.mark.parametrize("arguments", [f"unroll {DIGIT} -k 7 -o -", f"unroll {DIGIT} -k 7", "sizes 9 -k 3"])
def test_full_disk(arguments: str) -> None:
    status, _, err = shell(f"convmat {arguments} > /dev/full")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("convmat: standard output: ")
    assert "No space left on device" in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(number: int, status: int) -> None:
    command = [sys.executable, "-m", "convmat", "matmul", "-", "w.npy", "-o", "y.npy"]
    np.save("w.npy", np.ones((9, 2)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        buffer = io.BytesIO()
        np.save(buffer, np.ones((200_000, 9)))
        # Enough for a first block, which opens the output, and not for the second.
        process.stdin.write(buffer.getvalue()[:6_000_000])
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not list(Path().glob(".convmat-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(30) == status
        assert process.stderr.read() == b""
    assert sorted(p.name for p in Path().iterdir()) == ["sample_images", "w.npy"]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("convmat --help | true; exit ${PIPESTATUS[0]}", 141),
        (f"convmat verify {DIGIT} --kernel none.npy 2>/dev/full", 2),
        (f"convmat unroll {DIGIT} -k 7 -o - 2>/dev/full >x.npy", 0),
        (f"convmat --debug unroll {DIGIT} -k 0 2>/dev/null", 2),
        (f"convmat unroll {DIGIT} -k 7 -q -o x.npy 2>&- >&- <&-", 0),
        (f"convmat unroll {DIGIT} -k 1000000000 -p full --dry-run 2>/dev/null", 2),
        ("convmat sizes 5,6 -k 3 --dims 1 2>/dev/null", 2),
    ],
)
def test_exit_status_means_one_thing(script: str, status: int) -> None:
    """Where a stream has gone, or cannot take what is said."""
    # A pipe's reader may be there for long enough; then all is well.
    assert shell(script)[0] in (status, 0 if "| true" in script else status)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_do_not_wait_for_a_reader(number: int, status: int) -> None:
    """A pipe that is full and not read must not keep a stopped process."""
    np.save("x.npy", np.zeros((1000, 1000)))
    command = [sys.executable, "-m", "convmat", "unroll", "x.npy", "-k", "3", "-q", "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(6) == b"\x93NUMPY"  # it is at work, and will soon be stuck
        process.send_signal(number)
        assert process.wait(30) == status
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "env",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"TERM": "dumb"}, {"COLUMNS": "20"}, {"NO_COLOR": "1"}],
)
def test_tables_are_whole_anywhere(env: dict[str, str]) -> None:
    name = "a b[red]é[x].png"
    shutil.copy(DIGIT, name)
    status, out, err = shell(f"convmat unroll '{name}' --k 7 --stride 7", **env)
    assert (status, err) == (0, "")
    text = out if env.get("PYTHONIOENCODING") else out.encode("latin-1").decode()
    assert "a b[red]" in text and "[x].png" in text
    assert "floor((28 + 0 + 0 - 7) / 7) + 1 = 4" in text
    assert "16 x 49" in text or "16 × 49" in text
    assert "\x1b" not in text


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "convmat", "--version"], capture_output=True, text=True)
    assert done.stdout == f"convmat {cm.__version__} ({native.status()})\n"


# Options that mean nothing to what is done.


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"unroll {DIGIT} --k 7 --theme dark", "--theme goes with --figure or --animate"),
        (f"locate {DIGIT} --k 7 --row 0 --col 0 --theme dark", "--theme goes with --figure"),
        (f"convolve {DIGIT} --kernel sobel-x --theme light", "--theme goes with --figure"),
        (f"convolve {DIGIT} --kernel sobel-x --input-shape 9,9", "--input-shape goes with --transpose"),
        (f"convolve {DIGIT} --kernel box:2 --transpose --plan", "--plan goes without --transpose"),
        ("convolve a.npy --kernel sobel-x --alpha drop", "--alpha is for images, and there is none"),
        ("unroll a.npy --k 3 --frame 0", "--frame is for images, and there is none"),
        ("unroll a.npy --k 3 --alpha keep", "--alpha is for images, and there is none"),
        ("locate --input-shape 9,9 --k 3 --pixel 0,0,0 --alpha keep", "--alpha is for images"),
        ("matrix --input-shape 9,9 --kernel box:3 --frame 1", "--frame is for images"),
        ("matrix a.npy --kernel box:3 --alpha drop", "--alpha is for images"),
        ("matrix --input-shape 9,9 --kernel box:3 --dense", "--dense goes with --output"),
        (
            "matrix --input-shape 9,9 --kernel box:3 --no-spectrum --iterations 3",
            "--iterations goes without --no-spectrum",
        ),
        ("matmul a.npy a.npy --layout nchw", "--layout goes with --output-shape"),
        ("matmul a.npy a.npy --dims 2", "--dims goes with --output-shape"),
        ("sizes 9 --k 3 --output-padding 1", "--output-padding goes with --transpose"),
        (
            "train --paper --epochs 3 --optimizer sgd",
            "--paper says --optimizer and --epochs, which are given",
        ),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("a.npy", np.zeros((9, 9)))
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("convmat: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        f"unroll {DIGIT} --k 7 --padding-mode reflect",
        f"unroll {DIGIT} --k 7 --alpha keep",
        f"convolve {DIGIT} --kernel sobel-x --depthwise --groups 1",
        f"unroll {DIGIT} a.npy --k 7 --alpha drop",
    ],
)
def test_what_is_true_and_changes_nothing_is_allowed(line: str) -> None:
    np.save("a.npy", np.zeros((28, 28), "u1"))
    assert run([*line.split(), "-q"]) == 0


# Y of the X_col of each image.


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("images", [1, 3])
def test_matmul_of_the_rows_of_each_image(images: int, layout: str) -> None:
    x = np.arange(images * 36.0).reshape(images, 6, 6, 1)
    w = np.random.default_rng(2017).integers(-3, 4, (2, 3, 3, 1))
    np.save("x.npy", x)
    np.save("k.npy", w)
    assert run(["unroll", "x.npy", "--k", "3", "--per-image", "-q", "-o", "x_col.npy"]) == 0
    assert run(["flatten-filters", "k.npy", "-q", "-o", "w.npy"]) == 0
    for shape in ("4,4", f"{images},4,4"):
        line = f"matmul x_col.npy w.npy --output-shape {shape} --layout {layout} -q -o y.npy"
        assert run(line.split()) == 0
        np.testing.assert_array_equal(np.load("y.npy"), from_batch(cm.convolve(x, w), layout))
