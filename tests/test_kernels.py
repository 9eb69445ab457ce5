"""Kernels by name: sizes, sums, which way they look, and names that are none."""

from __future__ import annotations

import numpy as np
import pytest

import convmat as cm
from convmat.errors import GeometryError
from convmat.kernels import NAMES, is_kernel_name, named_kernel


@pytest.mark.parametrize("name, total", [("sobel-x", 0), ("sobel-y", 0), ("laplacian", 0), ("sharpen", 1)])
def test_fixed(name: str, total: int) -> None:
    kernel = named_kernel(name)
    assert (kernel.shape, kernel.dtype) == ((3, 3), np.int64)
    assert kernel.sum() == total
    kernel[0, 0] = 99  # the caller's own: the next one is not spoiled
    assert named_kernel(name)[0, 0] != 99


@pytest.mark.parametrize("name, brighter_to", [("sobel-x", "the right"), ("sobel-y", "the bottom")])
def test_sobel_answers_positively_towards_the_light(name: str, brighter_to: str) -> None:
    y, x = np.indices((5, 5))
    image = {"the right": x, "the bottom": y}[brighter_to]
    assert (cm.convolve(image[None, ..., None], named_kernel(name)[None, ..., None]) == 8).all()


def test_laplacian_of_a_square_is_4() -> None:
    y, x = np.indices((5, 5))
    image = (x**2 + y**2)[None, ..., None]
    assert (cm.convolve(image, named_kernel("laplacian")[None, ..., None]) == 4).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("base", ["box", "gaussian"])
def test_sized(base: str, k: int, dims: int) -> None:
    kernel = named_kernel(f"{base}:{k}", dims)
    assert (kernel.shape, kernel.dtype) == ((k,) * dims, np.float64)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, np.flip(kernel), rtol=1e-14)
    np.testing.assert_allclose(kernel, kernel.T, rtol=1e-14)
    if base == "box":
        assert np.ptp(kernel) == 0


def test_gaussian_by_hand() -> None:
    """Size 5 has σ = 0.3·((5 − 1)/2 − 1) + 0.8 = 1.1."""
    weights = np.array([np.exp(-(d**2) / (2 * 1.1**2)) for d in (2, 1, 0, 1, 2)])
    np.testing.assert_allclose(named_kernel("gaussian:5", 1), weights / weights.sum(), rtol=1e-14)


@pytest.mark.parametrize("name", [*NAMES, "box", "box:0", "gaussian:x"])
def test_what_is_meant_as_a_name(name: str) -> None:
    assert is_kernel_name(name)


@pytest.mark.parametrize("name", ["sobel", "boxes:3", "kernel.npy", "", "sobel-x:3"])
def test_what_is_not(name: str) -> None:
    assert not is_kernel_name(name)
    with pytest.raises(GeometryError, match=rf"^filters: unknown name '{name}'; give one of sobel-x, "):
        named_kernel(name)


@pytest.mark.parametrize("size", ["", ":", ":0", ":-3", ":+3", ":3.0", ":x", ":1001", ":٣", ":999999999"])
@pytest.mark.parametrize("base", ["box", "gaussian"])
def test_wrong_size(base: str, size: str) -> None:
    with pytest.raises(GeometryError, match=rf"^filters: '{base}.*' has no size of 1 to 1000 pixels; write"):
        named_kernel(base + size)


@pytest.mark.parametrize("dims, largest", [(1, 1_000_000), (3, 100)])
def test_largest_size(dims: int, largest: int) -> None:
    assert named_kernel(f"box:{largest}", dims).size == 1_000_000
    with pytest.raises(GeometryError, match=f"no size of 1 to {largest} pixels"):
        named_kernel(f"box:{largest + 1}", dims)


@pytest.mark.parametrize("dims", [1, 3])
def test_fixed_ones_have_two_axes(dims: int) -> None:
    with pytest.raises(GeometryError, match=f"^filters: sobel-x has 2 spatial axes, not {dims};"):
        named_kernel("sobel-x", dims)
