"""What looks like kernels in a .safetensors file: tensors of 3 to 5 axes, read as PyTorch has them."""

from __future__ import annotations

from convmat.errors import GeometryError
from convmat.files.tensors import read_tensors
from convmat.geometry import ConvGeometry
from convmat.networks.layers import Layer


def kernels_of(name: str, input_shape: tuple[int, ...] | None) -> list[Layer]:
    """Kernels (K, C/groups, *kernel) as layers of stride 1 without padding, on an input where that is given.

    Where the input (N, C, *spatial) has a multiple of a kernel's channels, it is in groups; where it does not
    fit at all, the layer has no shapes.

    Raises:
        FileError: the file cannot be read, or is damaged.
    """
    found = [(key, tensor.shape) for key, tensor in read_tensors(name).items()]
    kernels = [(key, shape) for key, shape in found if 3 <= len(shape) <= 5 and 0 not in shape]
    return [_layer(number, key, shape, input_shape) for number, (key, shape) in enumerate(kernels, 1)]


def _layer(number: int, name: str, shape: tuple[int, ...], input_shape: tuple[int, ...] | None) -> Layer:
    geometry = None
    if input_shape is not None and len(input_shape) == len(shape) and input_shape[1] % shape[1] == 0:
        groups = input_shape[1] // shape[1]
        try:
            x = (input_shape[0], *input_shape[2:], input_shape[1])
            geometry = ConvGeometry(x, shape[2:], groups=groups) if shape[0] % groups == 0 else None
        except GeometryError:
            geometry = None
    output = None if geometry is None else (geometry.batch, shape[0], *geometry.output_size)
    return Layer(
        number,
        name,
        "Conv",
        None,
        None if geometry is None else input_shape,
        output,
        shape,
        True,
        geometry,
        None,
        None,
    )
