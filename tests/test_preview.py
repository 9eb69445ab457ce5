"""unroll --preview: what is drawn in a terminal holds the pixels that unroll copies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import run
from convmat.figures.preview import image_tiles, patch_tiles, preview_text
from convmat.geometry import ConvGeometry
from convmat.report.tables import console_on
from tests.tools import convmat

ROOT = Path(__file__).parent.parent


class Terminal(io.StringIO):
    """A terminal with all colours."""

    encoding = "utf-8"  # type: ignore[assignment]  # of what would be one

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((1, 8, 8, 1), {"kernel_size": 4, "stride": 4}),
        ((2, 5, 6, 3), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((1, 9, 9, 1), {"kernel_size": 3, "dilation": 2}),
        ((1, 20, 1), {"kernel_size": 4, "stride": 4, "padding": 2}),
    ],
)
def test_patches_are_rows_of_x_col(shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    pixels = (np.arange(np.prod(shape)) % 255 + 1).reshape(shape).astype(np.uint8)
    geometry = ConvGeometry(shape, **arguments)
    x_col = cm.unroll(pixels, **arguments)
    tiles = patch_tiles(geometry, "zeros", pixels)
    found = [tile for tile in tiles if tile is not None]
    assert len(found) == min(geometry.matrix_shape[0], 7 if None in tiles else 16)
    for tile in found:
        row = int(tile.name.split()[0])
        colours = x_col[row].reshape(-1, shape[-1])
        expected = np.broadcast_to(colours, (len(colours), 3)).reshape(tile.colours.shape)
        np.testing.assert_array_equal(tile.colours, expected)
        np.testing.assert_array_equal(tile.padding, (expected == 0).all(-1))


def test_a_large_image_is_shown_about_a_pixel() -> None:
    pixels = np.arange(100 * 300, dtype=np.int64).astype(np.uint8).reshape(1, 100, 300, 1)
    geometry = ConvGeometry(pixels.shape, 3)
    (tile,) = image_tiles(geometry, pixels, 80, (95, 150))
    assert tile.name == "excerpt: lines 20..99, columns 110..189"
    np.testing.assert_array_equal(tile.colours[..., 0], pixels[0, 20:, 110:190, 0])
    first, *_ = patch_tiles(geometry, "zeros", pixels, (95, 150))
    assert first is not None
    assert first.name == f"{94 * 298 + 149} (94, 149)"
    np.testing.assert_array_equal(first.colours[1, 1], pixels[0, 95, 150].repeat(3))


def test_images_are_reduced_to_the_width() -> None:
    pixels = np.zeros((1, 100, 300, 1), np.uint8)
    (tile,) = image_tiles(ConvGeometry(pixels.shape, 3), pixels, 80)
    assert tile.colours.shape == (25, 75, 3)
    assert "every 4th pixel" in tile.name


def test_colours_where_the_terminal_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pixels = np.array([[[[10], [20]], [[30], [40]]]], np.uint8)
    geometry = ConvGeometry(pixels.shape, 1)
    text = preview_text(geometry, "zeros", pixels, console_on(Terminal(), 80))
    assert "\x1b[38;2;10;10;10;48;2;30;30;30m▀" in text
    assert "\x1b[38;2;20;20;20;48;2;40;40;40m▀" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38" not in preview_text(geometry, "zeros", pixels, console_on(Terminal(), 80))


class Latin(Terminal):
    """A terminal that has colours, and neither half blocks nor shades."""

    encoding = "cp1252"


class OldTerminal(Terminal):
    """One with half blocks and shades, whose encoding is no UTF."""

    encoding = "cp437"


@pytest.mark.parametrize(
    ("terminal", "no_color", "shades"),
    [(Terminal, "1", " ░▒▓█"), (Latin, "", " .:*#"), (Latin, "1", " .:*#"), (OldTerminal, "1", " ░▒▓█")],
)
def test_shades_where_half_blocks_would_be_one_rectangle(
    terminal: type[Terminal], no_color: str, shades: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("COLORTERM", "truecolor"), ("TERM", "xterm-256color"), ("NO_COLOR", no_color)):
        monkeypatch.setenv(name, value)
    pixels = np.array([0, 60, 120, 180, 250], np.uint8).reshape(1, 1, 5, 1)
    text = preview_text(ConvGeometry(pixels.shape, 1), "zeros", pixels, console_on(terminal(), 80))
    assert "▀" not in text
    assert "".join(shade * 2 for shade in shades) in text


def test_half_blocks_in_an_old_encoding_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLORTERM", "truecolor"), ("TERM", "xterm-256color"), ("NO_COLOR", "")):
        monkeypatch.setenv(name, value)
    pixels = np.zeros((1, 2, 2, 1), np.uint8)
    assert "▀" in preview_text(ConvGeometry(pixels.shape, 1), "zeros", pixels, console_on(OldTerminal(), 80))


@pytest.mark.parametrize("columns", ["0", "1", "2"])
@pytest.mark.parametrize("no_color", ["", "1"])
def test_terminals_of_no_width(columns: str, no_color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", columns), ("TERM", "xterm-256color"), ("NO_COLOR", no_color)):
        monkeypatch.setenv(name, value)
    pixels = np.zeros((1, 9, 9, 1), np.uint8)
    text = preview_text(ConvGeometry(pixels.shape, 3), "zeros", pixels, console_on(Terminal(), 80))
    assert ("image 9 × 9\n" in text.replace("\x1b[0m", "").replace("\x1b[2m", "")) == (columns == "0")


def test_the_command_shows_it_after_the_table(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(25).reshape(5, 5))
    done = convmat("unroll", "a.npy", "-k", "3", "-s", "2", "-p", "1", "--preview", folder=tmp_path)
    table, _, shown = done.stdout.decode().partition("image 5 × 5\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "X_col" in table
    assert shown.splitlines()[:5] == [" " * 10, "░" * 10, "▒" * 10, "▓" * 10, "█" * 10]
    assert "9 of 9 patches: row of X_col (y, x); dots: padding" in shown
    assert "··░░░░" in shown
    with_data = convmat("unroll", "a.npy", "-k", "3", "--preview", "-o", "-", folder=tmp_path)
    assert with_data.stdout.startswith(b"\x93NUMPY")
    assert "image 5 × 5" in with_data.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.npy", "-k", "3", "--preview", "--json"), "--preview goes without --json"),
        (("a.npy", "-k", "3", "--preview", "-q"), "--preview goes without --quiet"),
        (("a.npy", "-k", "3", "--preview", "--dry-run"), "--preview goes without --dry-run"),
        (
            ("v.npy", "-k", "2", "--dims", "3", "--preview"),
            "--preview: shows images, of 1 or 2",
        ),
        (("m.npy", "-k", "2", "--preview"), "--preview: shows gray and RGB images, got 7 channels"),
        (("n.npy", "-k", "2", "--preview"), "--preview: complex, NaN or infinite values"),
    ],
)
def test_trouble_is_told(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(25).reshape(5, 5))
    np.save("v.npy", np.zeros((4, 4, 4)))
    np.save("m.npy", np.zeros((4, 4, 7)))
    np.save("n.npy", np.full((4, 4), np.inf))
    assert run(["unroll", *arguments]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
