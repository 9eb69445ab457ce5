"""One axis of a convolution: its padding by name, its output length, what stands in its padding."""

from __future__ import annotations

from typing import Any

PADDING_NAMES = ("valid", "same", "same-lower", "half", "full")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def kernel_extent(k: int, dilation: int) -> int:
    """Input pixels from the first tap to the last, both included: D·(k − 1) + 1."""
    return dilation * (k - 1) + 1


def output_length(size: int, pads: tuple[int, int], extent: int, stride: int) -> int:
    """Positions of the kernel (Eq. 5-6), floor((H + P − extent) / S) + 1; 0 if none."""
    return max((size + sum(pads) - extent) // stride + 1, 0)


def transposed_length(
    size: int, pads: tuple[int, int], extent: int, stride: int, output_padding: int = 0
) -> int:
    """Size of a transposed convolution's output, (H − 1)·S − P + extent + output_padding."""
    return (size - 1) * stride - sum(pads) + extent + output_padding


def named_pads(rule: str, size: int, extent: int, stride: int) -> tuple[int, int]:
    """Zeros before and after the axis under a padding rule.

    - `valid`: none.
    - `same`: as few as give ceil(H / S) outputs, the odd one at the end; `same-lower`: at the start.
    - `half`: floor(extent / 2) on both sides (keeps the size for odd kernels at stride 1).
    - `full`: extent − 1 on both sides, every overlap of kernel and input (Eq. 7 of a full convolution).
    """
    if rule == "valid":
        return 0, 0
    if rule == "half":
        return extent // 2, extent // 2
    if rule == "full":
        return extent - 1, extent - 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if rule == "same" else (more, less)


def padding_source(position: Any, size: int, padding_mode: str) -> Any:
    """The pixel of 0..size−1 that stands at `position`, which may lie in the padding.

    `reflect` mirrors about the edge pixels, `replicate` repeats them, `circular` begins the axis again. A
    position inside stands for itself. For an int, or an integer array element by element.
    """
    last = size - 1
    if padding_mode == "circular":
        return position % size
    if padding_mode == "replicate":
        # Clipping by arithmetic alone, the same for numbers and arrays.
        return (abs(position) - abs(position - last) + last) // 2
    # Mirroring about both edge pixels repeats after 2·last steps.
    return last - abs(last - position % max(2 * last, 1))


def positions_of(pixel: int, size: int, pads: tuple[int, int], padding_mode: str) -> list[range]:
    """The inverse of `padding_source`: where a pixel stands, at its own position and in the padding."""
    first, end = -pads[0], size + pads[1]
    if padding_mode == "zeros":
        return [range(pixel, pixel + 1)]
    if padding_mode == "replicate":
        return [range(first if pixel == 0 else pixel, end if pixel == size - 1 else pixel + 1)]
    period = size if padding_mode == "circular" else max(2 * (size - 1), 1)
    rests = {pixel % period} if padding_mode == "circular" else {pixel % period, -pixel % period}
    return [range(first + (rest - first) % period, end, period) for rest in rests]
