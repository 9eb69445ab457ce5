"""Text in encodings that lack its signs: each is written in letters that every encoding has."""

from __future__ import annotations

import codecs

_PLAIN = {
    **dict.fromkeys("─━═╌┄", "-"),
    **dict.fromkeys("│┃║┆┊", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╞╡╪╔╗╚╝╠╣╦╩╬┏┓┗┛┡┩╇┳┻╋", "+"),
    "×": "x",
    "·": "*",
    "∘": "o",
    "∙": " ",
    "…": "...",
    "−": "-",
    "–": "-",
    "—": "-",
    "±": "+-",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "↦": "|->",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "∈": "in",
    "∞": "inf",
    "√": "sqrt ",
    "∂": "d",
    "Σ": "sum",
    "σ": "sigma",
    "γ": "gamma",
    "β": "beta",
    "ε": "eps",
    "θ": "theta",
    "π": "pi",
    "⊗": "(x)",
    "ᵀ": "^T",
    "ᴴ": "^H",
    "²": "^2",
    "³": "^3",
    "₂": "_2",
    "½": "1/2",
    "\u0302": "^",  # a hat over the letter before
    "‖": "||",
    "⟨": "<",
    "⟩": ">",
    "°": " degrees",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "▀": '"',
    "░": ".",
    "▒": ":",
    "▓": "*",
    "█": "#",
}

READABLE = "convmat.readable"
"""The name of an error handler for streams: what cannot be encoded is written in letters."""


def _in_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    letters = (_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lost)
    return "".join(letters), error.end


codecs.register_error(READABLE, _in_letters)


def readable(text: str, encoding: str | None) -> str:
    """`text` as a stream of this encoding shows it, so that it can be measured."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, READABLE).decode(encoding)


def can_show(text: str, encoding: str | None) -> bool:
    """Whether an encoding has all signs of a text."""
    return readable(text, encoding) == text


def printable(text: str) -> str:
    """`text` on one line and without control characters, which file names may have."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
