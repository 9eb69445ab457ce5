"""A convolution with bfloat16 operands, of numbers drawn at random."""

import numpy as np

import convmat as cm


def bfloat16(a: np.ndarray) -> np.ndarray:
    """float32 rounded to 8 bits, ties to even."""
    bits = a.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16).view(np.float32)


random = np.random.default_rng(0)
x = random.standard_normal((1, 16, 16, 8), np.float32)
w = random.standard_normal((4, 3, 3, 8), np.float32)
for name, array in (("x", x), ("w", w), ("mine", cm.convolve(bfloat16(x), bfloat16(w)))):
    np.save(name, array)
