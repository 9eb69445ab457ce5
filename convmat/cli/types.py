"""What a text on the command line stands for: files, numbers, sizes, each by its own grammar."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import click

from convmat.checks import read_whole
from convmat.errors import DTypeError, FileError, SettingError
from convmat.files.described import described
from convmat.files.names import check_ending
from convmat.files.schema import Kind, Mismatch, shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Type(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A grammar: `read` takes a text, or raises `click.BadParameter`."""

    name = "value"
    metavar: str | None = None

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.read(value) if isinstance(value, str) else value

    def read(self, text: str) -> Any:
        return text


class File(Type):
    """A file's name, or a folder's. Shells complete it, after `file.npz:` and `file.safetensors:` by the
    names of arrays.
    """

    def __init__(self, is_folder: bool = False, kernels: bool = False) -> None:
        self.is_folder, self._kernels = is_folder, kernels

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A name with what is said of the file's bytes: in the text itself, or by --dtype and --shape."""
        text = super().convert(value, param, ctx)
        if self.is_folder or isinstance(self, OutputName) or not isinstance(text, str):
            return text
        if self._kernels and text.split(":")[0] in (name.split(":")[0] for name in _kernel_names()):
            return text
        meta = {} if ctx is None else ctx.meta
        return described(text, meta.get("convmat.dtype"), meta.get("convmat.shape"))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        for suffix in (".npz", ".safetensors"):
            archive, colon, _ = incomplete.partition(f"{suffix}:")
            if colon:
                return _items(_arrays(f"{archive}{suffix}"), incomplete)
        kernels = _items(_kernel_names(), incomplete) if self._kernels else []
        return [CompletionItem(incomplete, type="dir" if self.is_folder else "file"), *kernels]


class OutputName(File):
    """The name of what is to be written, one of these kinds: see `check_ending`."""

    def __init__(self, *kinds: str) -> None:
        super().__init__(is_folder="folder" in kinds)
        self._kinds = kinds

    def read(self, text: str) -> str:
        check_ending(text, *self._kinds)
        return text


def _items(names: list[str] | tuple[str, ...], beginning: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(beginning)]


def _arrays(archive: str) -> list[str]:
    from convmat.files.members import archive_names
    from convmat.files.tensors import read_tensors

    with suppress(FileError):
        names = archive_names if archive.endswith(".npz") else read_tensors
        return [f"{archive}:{name}" for name in names(archive)]
    return []


def _kernel_names() -> list[str]:
    from convmat.kernels import NAMES

    return [name.replace("SIZE", "") for name in NAMES]


class NumberType(Type):
    """A number, however long, refused where it is read if it is not of its kind.

    Where no kind is given, what takes the number knows its range.
    """

    metavar = "N"

    def __init__(self, kind: Kind | None = None, read: Callable[[str], float] = read_whole) -> None:
        self._kind, self._read = kind, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            number = self._read(value)
        except ValueError:
            self.fail(f"{shown(value)} is no number; give {self._kind or 'a whole one'}", param, ctx)
        try:
            if self._kind:
                self._kind.check(number)
        except Mismatch as mismatch:
            raise SettingError(param.opts[0] if param else "", mismatch.problem) from None
        return number


class Sizes(Type):
    """`7`, or one number for each axis: `3,5` or `3x5`."""

    metavar = "N[,N]"
    example = "7, or one for each axis: 3,5 or 3x5"
    most = 3  # spatial axes

    def read(self, text: str) -> Any:
        plain = text.lower().replace("×", "x")
        try:
            numbers = tuple(read_whole(part) for part in plain.split("," if "," in plain else "x"))
        except ValueError:
            raise click.BadParameter(f"{shown(text)} is no size; write {self.example}") from None
        if len(numbers) > self.most:
            raise click.BadParameter(f"{shown(text)} has {len(numbers)} numbers; give at most {self.most}")
        return numbers[0] if len(numbers) == 1 else numbers


class OutputShape(Sizes):
    """The output's size, and N before it if need be."""

    example = "4,4 or 4x4; or with N before: 2,4,4"
    most = 4


class InputShape(Sizes):
    """The shape of an array of images."""

    example = "28,28 or 28x28; or with channels and N: N,28,28,1"
    most = 5  # N, spatial axes, C

    def read(self, text: str) -> tuple[int, ...]:
        shape = super().read(text)
        return (shape,) if isinstance(shape, int) else shape


class ArrayShape(InputShape):
    """The shape of any array."""

    example = "1,56,56,64 or 1x56x56x64"

    def read(self, text: str) -> tuple[int, ...]:
        shape = super().read(text)
        if min(shape) < 0:
            raise click.BadParameter(f"{shown(text)} has a size below 0; write {self.example}")
        return shape


class DType(Type):
    """The name of a dtype: NumPy's, or one that NumPy lacks."""

    metavar = "NAME"

    def read(self, text: str) -> str:
        from convmat.formats import stored

        try:
            return stored(text).name
        except DTypeError as error:
            raise click.BadParameter(error.problem) from None


class NamedShape(InputShape):
    """The shape of a network's input, with its name before it where there are several."""

    metavar = "[NAME=]N[,N]"
    example = "1,3,224,224, or with the input's name: x=1,3,224,224"
    most = 8

    def read(self, text: str) -> Any:
        name, _, shape = text.rpartition("=")
        return name, super().read(shape)


class Pixel(InputShape):
    """A pixel and a channel: y,x,c, and n before them if need be."""

    metavar = "[n,]y,x,c"
    example = "y,x,c or n,y,x,c: 9,12,0"


class At(InputShape):
    """A pixel."""

    metavar = "[y,]x"
    example = "y,x: 9,12"


class Pads(Sizes):
    """Padding in pixels."""

    example = "1, or 1,2 or 1x2 for the axes, or 1,2,0,1 for the sides"
    most = 6  # sides


class PaddingType(Pads):
    """A rule's name, or numbers."""

    metavar = "RULE|N[,N]"

    def read(self, text: str) -> Any:
        from convmat.axis import PADDING_NAMES

        if text.lower() in PADDING_NAMES:
            return text.lower()
        try:
            return super().read(text)
        except click.BadParameter:
            rules = ", ".join(PADDING_NAMES)
            raise click.BadParameter(
                f"{shown(text)} is no padding; give {rules}, or numbers: 1 or 1,2 or 1,2,1,2"
            ) from None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from convmat.axis import PADDING_NAMES

        return _items(PADDING_NAMES, incomplete)


class Numbers(Type):
    """Decimal numbers, joined by commas."""

    metavar = "N,N"

    def read(self, text: str) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in text.split(","))
        except ValueError:
            raise click.BadParameter(f"{shown(text)} is not numbers; write 127.5,127.5") from None


class LayerType(Type):
    """One layer of a chain, as in k=7,s=2,p=3; numbers for each axis are joined by x."""

    metavar = "k=N[,s=N][,p=RULE|N][,d=N]"
    keys: ClassVar = {"k": "kernel_size", "s": "stride", "p": "padding", "d": "dilation"}

    def read(self, text: str) -> dict[str, Any]:
        parts = [part.partition("=") for part in text.split(",")]
        keys = [key for key, _, _ in parts]
        if "k" not in keys or len(set(keys)) != len(keys) or not set(keys) <= set(self.keys):
            raise click.BadParameter(
                f"{shown(text)} is no layer; write k=7,s=2,p=3,d=1, of which k is needed"
            )
        layer: dict[str, Any] = {"padding": "valid"}
        for key, _, number in parts:
            try:
                layer[self.keys[key]] = (PaddingType() if key == "p" else Sizes()).read(number)
            except click.BadParameter:
                form = "a rule, or pixels: 1 or 1x2" if key == "p" else "a size: 7 or 3x5"
                raise click.BadParameter(f"{key}={number[:40]} in {shown(text)} is not {form}") from None
        return layer


class RequantizeType(Type):
    """Scale, zero point, rounding, and a dtype if need be: 0.0037,-3,half-even,int8."""

    metavar = "SCALE,ZERO,ROUNDING[,DTYPE]"

    def read(self, text: str) -> tuple[float, int, str, str | None]:
        try:
            scale, zero_point, rounding, *dtype = (part.strip() for part in text.split(","))
            if len(dtype) > 1:
                raise ValueError
            return (float(scale), read_whole(zero_point), rounding.lower(), dtype[0] if dtype else None)
        except ValueError:
            form = "write scale, zero point and rounding, as in 0.0037,-3,half-even"
            raise click.BadParameter(f"{shown(text)} is no requantization; {form}") from None


class Tile(Sizes):
    """What a kernel computes at a time: outputs along each spatial axis, and filters."""

    metavar = "N,N[,N]"
    example = "a size of each spatial axis, then filters: 16,16,32"
    most = 4


class ArithmeticType(Type):
    """The name of an arithmetic, which the library knows."""

    metavar = "NAME"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from convmat.verification.numerics import NAMES

        return _items(NAMES, incomplete)


class Formats(Type):
    """Formats of a probe, joined by commas."""

    metavar = "npy|c|hex|bin[,…]"
    known = ("npy", "c", "hex", "bin")

    def read(self, text: str) -> tuple[str, ...]:
        formats = tuple(text.lower().split(","))
        for wanted in formats:
            if wanted not in self.known:
                raise click.BadParameter(f"{wanted!r} is none of {', '.join(self.known)}")
        return formats


class CName(Type):
    """What names in C may begin with."""

    metavar = "NAME"

    def read(self, text: str) -> str:
        from convmat.files.sources import is_c_name

        if not is_c_name(text):
            form = "give a letter, and then letters, digits and _, 64 at most"
            raise click.BadParameter(f"{shown(text)} is no name in C; {form}")
        return text
