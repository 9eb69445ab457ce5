"""What a record must hold, declared as data: kinds of values with their ranges, and one check of them all.

The same kinds bound the fields of a file, the settings of a call and the numbers of a command line, so that
each range stands in one place. A kind says what it expects as `str(kind)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmat.checks import SEED_LIMIT, got, read_whole
from convmat.errors import FileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_FLOAT = 1.7976931348623157e308
_SHOWN, _SHOWN_ITEMS = 40, 4  # of a value in an error: characters, items
_PIECE = 1 << 20  # numbers looked at at a time


class Mismatch(ValueError):
    """A value that is not of its kind: its place, as in `runs.sgd.epoch`, and what is wrong there."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place or 'the record'} {problem}")
        self.place = place
        self.problem = problem


class Kind:
    """What a value must be."""

    def holds(self, value: Any) -> bool:
        """Whether the value, looked at as a whole, is of this kind."""
        return True

    def check(self, value: Any, place: str = "") -> None:
        """Raise Mismatch unless the value, with all that is in it, is of this kind."""
        if not self.holds(value):
            raise Mismatch(place, f"must be {self}, got {shown(value)}")


@dataclass(frozen=True)
class Anything(Kind):
    """What is looked at elsewhere."""


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def holds(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" if self.low < self.high else f"{self.low}"


@dataclass(frozen=True)
class Number(Kind):
    """A finite number from `low` to `high`; above `low` if so said."""

    low: float
    high: float = LARGEST_FLOAT
    above: bool = False

    def holds(self, value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return bool((self.low < value if self.above else self.low <= value) and value <= self.high)

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low:g}, at most {self.high:g}"
        return f"{self.low:g} to {self.high:g}" if self.low < self.high else f"{self.low:g}"


@dataclass(frozen=True)
class OneOf(Kind):
    """One of a few values."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}" if len(self.values) > 1 else f"{self.values[0]}"


@dataclass(frozen=True)
class Text(Kind):
    """Text that can be a file's name."""

    most: int = 1 << 16

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= self.most and "\0" not in value

    def __str__(self) -> str:
        return f"text of at most {self.most} characters"


@dataclass(frozen=True)
class Either(Kind):
    """What is of any of some kinds; `text` says them shorter."""

    kinds: tuple[Kind, ...]
    text: str = ""

    def holds(self, value: Any) -> bool:
        return any(_is(kind, value) for kind in self.kinds)

    def __str__(self) -> str:
        return self.text or " or ".join(map(str, self.kinds))


@dataclass(frozen=True)
class Items(Kind):
    """A list with an item of each kind, in this order."""

    kinds: tuple[Kind, ...]

    def holds(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == len(self.kinds)

    def check(self, value: Any, place: str = "") -> None:
        super().check(value, place)
        for number, (kind, item) in enumerate(zip(self.kinds, value, strict=True)):
            kind.check(item, f"{place}[{number}]")

    def __str__(self) -> str:
        return f"a list of {len(self.kinds)}"


@dataclass(frozen=True)
class Rows(Kind):
    """A list of one of some lengths, of items whose kind depends on where they are."""

    lengths: tuple[int, ...]
    row: Callable[[int], Kind]

    def holds(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) in self.lengths

    def check(self, value: Any, place: str = "") -> None:
        super().check(value, place)
        for number, item in enumerate(value):
            self.row(number).check(item, f"{place}[{number}]")

    def __str__(self) -> str:
        return f"a list of {' or '.join(map(str, self.lengths))}"


@dataclass(frozen=True)
class Fields(Kind):
    """An object with these names, each with a value of its kind, and no other name."""

    kinds: Mapping[str, Kind]

    def holds(self, value: Any) -> bool:
        return isinstance(value, dict)

    def check(self, value: Any, place: str = "") -> None:
        super().check(value, place)
        check_names(value, self.kinds, place)
        for name, kind in self.kinds.items():
            kind.check(value[name], f"{place}.{name}" if place else name)

    def __str__(self) -> str:
        return f"an object of {', '.join(self.kinds)}"


@dataclass(frozen=True)
class Then(Kind):
    """What is of one kind first, and then of another that follows from the value."""

    first: Kind
    rest: Callable[[Any], Kind]

    def check(self, value: Any, place: str = "") -> None:
        self.first.check(value, place)
        self.rest(value).check(value, place)


@dataclass(frozen=True)
class Array(Kind):
    """An array of floats, all finite and none below `low`."""

    shape: tuple[int, ...]
    dtype: str
    low: float = -LARGEST_FLOAT

    def check_header(self, shape: tuple[int, ...], dtype: object, place: str) -> None:
        """Raise Mismatch unless an array of this shape and dtype, still unread, may be of this kind."""
        if shape != self.shape or str(dtype) != self.dtype:
            raise Mismatch(place, f"must be {self}, got {dtype} of shape {shape}")

    def check(self, value: NDArray[Any], place: str = "") -> None:
        self.check_header(value.shape, value.dtype, place)
        flat = value.reshape(-1)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            low, high = float(piece.min()), float(piece.max())  # a NaN is both
            if not self.low <= low <= high <= LARGEST_FLOAT:
                least = "finite" if self.low < 0 else f"finite and at least {self.low:g}"
                raise Mismatch(place, f"must be {least}, got {low:g} to {high:g}")

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


SEED = Whole(0, SEED_LIMIT)
"""Of all that is random."""


def _is(kind: Kind, value: Any) -> bool:
    try:
        kind.check(value)
    except Mismatch:
        return False
    return True


def check_names(got: Collection[str], expected: Collection[str], place: str = "") -> None:
    """Raise Mismatch unless these are the names, in any order."""
    missing = [name for name in expected if name not in got]
    strange = [name for name in got if name not in expected]
    if missing:
        some = ", ".join(shown(name) for name in list(got)[:_SHOWN_ITEMS]) or "nothing"
        raise Mismatch(place, f"must have {missing[0]}, got {some}{', …' * (len(got) > _SHOWN_ITEMS)}")
    if strange:
        raise Mismatch(place, f"must have {', '.join(expected)} alone, got {shown(strange[0])}")


def shown(value: Any, depth: int = 2) -> str:
    """A value, for an error, however long or deep it is."""
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list | tuple):
        if len(value) > _SHOWN_ITEMS or not depth:
            return f"a list of {len(value)}"
        return f"[{', '.join(shown(item, depth - 1) for item in value)}]"
    if type(value) is int:
        return got(value)
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}…, {len(value)} characters"
    return repr(value)


def from_json(data: bytes) -> Any:
    """A value from JSON that says nothing twice and holds numbers alone where it holds numbers.

    Raises:
        Mismatch: no JSON, or too deep.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_int=read_whole
        )
    except RecursionError:
        raise Mismatch("", "must be JSON, got lists within lists without an end") from None
    except ValueError as error:
        raise Mismatch("", f"must be JSON, got: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} for a number")


@contextmanager
def record_of(name: str, remedy: str) -> Iterator[None]:
    """What a record holds that it should not, as damage of the file that it is in.

    Raises:
        FileError: with the place, what was expected and got, and the remedy.
    """
    try:
        yield
    except Mismatch as mismatch:
        raise FileError(name, f"is damaged: {mismatch}; {remedy}") from None
