"""What is written into the pictures of patches and layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convmat.geometry import ConvGeometry, Place
from convmat.shown import sizes
from convmat.words import POSITION_NAMES, pads_text


def title(geometry: ConvGeometry, padding_mode: str) -> str:
    """Kernel and stride, and what else is not as usual."""
    parts = [f"kernel {sizes(geometry.kernel_size)}", f"stride {sizes(geometry.stride)}"]
    if max(geometry.dilation) > 1:
        parts.append(f"dilation {sizes(geometry.dilation)}")
    if any(map(any, geometry.pads)):
        parts.append("padding " + pads_text(geometry, padding_mode))
    return ", ".join(parts)


def image(geometry: ConvGeometry, number: int | None = None) -> str:
    """An image and its size, and which of several it is."""
    return f"image {_of_batch(geometry, number)}{sizes(geometry.input_size)}"


def excerpt(geometry: ConvGeometry, number: int, window: tuple[range, range]) -> str:
    """The window of an image that is shown."""
    lines, columns = (f"{positions[0]}..{positions[-1]}" for positions in window)
    return f"{_of_batch(geometry, number)}excerpt: lines {lines}, columns {columns}"


def _of_batch(geometry: ConvGeometry, number: int | None) -> str:
    return f"{number} of {geometry.batch}, " if geometry.batch > 1 and number is not None else ""


def matrix(geometry: ConvGeometry, name: str, rows: int, columns: int) -> str:
    """X_col, or what it is, and how many of its rows and columns are shown."""
    all_rows, all_columns = geometry.matrix_shape
    parts = [f"{rows} of the {all_rows} rows"] if rows < all_rows else []
    parts += [f"{columns} of the columns"] if columns < all_columns else []
    return f"{name}, {all_rows} × {all_columns}" + (": " + " and ".join(parts) if parts else "")


def patch(geometry: ConvGeometry, position: Sequence[int]) -> str:
    """A patch's numbers without an axis that was added for drawing, and with n where there are several."""
    own = position[-len(geometry.kernel_size) :]
    return ", ".join(map(str, (position[0], *own) if geometry.batch > 1 else own))


def patch_names(geometry: ConvGeometry) -> str:
    """What the numbers of `patch` are."""
    names = POSITION_NAMES[len(geometry.kernel_size)]
    return ", ".join(("n", *names) if geometry.batch > 1 else names)


def formulas(geometry: ConvGeometry, place: Place | None, row: int, order: str) -> list[str]:
    """Eq. 8 with the numbers of a place filled in, or of a row's first element; what is 0 is left out."""
    shown = geometry.place(row, 0) if place is None else geometry.place(place.row, place.column, order=order)
    of_row = f"row {_equation(_ravelled(shown.patch, geometry.output_size), shown.row)}"
    pixel = ", ".join(_pixel_texts(geometry, shown))
    if place is None:
        return [f"{of_row}: its patch begins at {pixel}"]
    digits = (*shown.tap, shown.channel) if order == "hwc" else (shown.channel, *shown.tap)
    column = _equation(_ravelled(digits, geometry.column_sizes(order)[1:]), shown.column)
    return [f"{of_row}, column {column}", f"pixel {pixel}"]


def _pixel_texts(geometry: ConvGeometry, place: Place) -> Iterator[str]:
    """Eq. 8 along each axis, y·S + i·D − P."""
    names = POSITION_NAMES[len(geometry.kernel_size)]
    axes = zip(
        names, place.patch[1:], geometry.stride, place.tap, geometry.dilation, geometry.pads, strict=True
    )
    for (name, y, s, i, d, (before, _)), position in zip(axes, place.position, strict=True):
        text = _product(y, s) + (f" + {_product(i, d)}" if i else "") + (f" - {before}" if before else "")
        yield f"{name} = {_equation(text, position)}"


def _equation(text: str, number: int) -> str:
    return text if text == str(number) else f"{text} = {number}"


def _ravelled(digits: Sequence[int], sizes: Sequence[int]) -> str:
    """A number by its digits, `sizes` being those of all digits but the first."""
    text = str(digits[0])
    for digit, size in zip(digits[1:], sizes, strict=True):
        text = f"{digit}" if text == "0" else f"{_product(text, size)} + {digit}"
    return text


def _product(number: object, factor: int) -> str:
    text = f"({number})" if " " in str(number) else str(number)
    return text if factor == 1 or text == "0" else f"{text}*{factor}"
