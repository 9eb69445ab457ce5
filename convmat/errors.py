"""What can go wrong, as exceptions: one base, and a few kinds that are also the builtin they refine."""

from __future__ import annotations


class ConvmatError(Exception):
    """Base of every error convmat raises on purpose.

    `subject` is what the trouble is about: the name of a parameter (``"stride"``) or of a file.
    `str(error)` is ``"subject: what was got, what was expected; how to mend it"``, one line.
    The command line replaces a parameter's name by its option.
    """

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(subject, problem)
        self.subject = subject
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}"

    def __reduce__(self) -> tuple[type[ConvmatError], tuple[str, str]]:
        return type(self), (self.subject, self.problem)  # OSError would hand on its own arguments


class GeometryError(ConvmatError, ValueError):
    """Sizes, strides, pads, dilations or groups that make no convolution."""


class ShapeError(ConvmatError, ValueError):
    """An array whose shape does not fit."""


class DTypeError(ConvmatError, TypeError):
    """An array whose elements are not numbers that convmat computes with."""


class IntegerRangeError(ConvmatError, OverflowError):
    """Integers whose sums of products could leave int64."""


class MappingIndexError(ConvmatError, IndexError):
    """A row, column or pixel that the index mapping does not have."""


class SettingError(ConvmatError, ValueError):
    """A setting of an experiment that makes no experiment, or whose training comes to nothing."""


class MemoryLimitError(ConvmatError, MemoryError):
    """Work that would need more memory than there is."""


class FileError(ConvmatError, OSError):
    """A file that cannot be read or written, or does not hold what it should."""

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(subject, problem)
        # OSError takes two arguments for an error number and its text.
        self.errno = None
        self.filename = subject
        self.strerror = problem
