"""The sample images and kernels: what they are for, and that their script still draws them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLES = Path(__file__).parent.parent / "sample_images"


@pytest.mark.slow
def test_script_draws_them(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("draw", SAMPLES / "draw.py")
    assert spec and spec.loader
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    draw.main(tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    written = (".py", ".toml")  # by hand
    assert drawn == sorted(p.name for p in SAMPLES.iterdir() if p.suffix not in written and p.is_file())
    for name in drawn:
        if name.endswith(".npy"):
            np.testing.assert_array_equal(np.load(tmp_path / name), np.load(SAMPLES / name))
            continue
        if name.endswith(".onnx"):
            assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()
            continue
        with Image.open(tmp_path / name) as new, Image.open(SAMPLES / name) as kept:
            assert (new.mode, new.size) == (kept.mode, kept.size)
            # Processors round sines differently; nobody sees a difference of one.
            assert np.abs(np.asarray(new, int) - np.asarray(kept, int)).max() <= 1


def test_they_are_small() -> None:
    assert sum(p.stat().st_size for p in SAMPLES.iterdir() if p.is_file()) < 300_000


def test_ramp_needs_16_bits() -> None:
    with Image.open(SAMPLES / "ramp16.png") as ramp:
        assert np.unique(np.asarray(ramp)).size > 256
