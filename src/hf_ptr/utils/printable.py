"""Texts of a dataset as a terminal may show them."""

from __future__ import annotations


def printable(text: str) -> str:
    """
    The text with U+FFFD for each character that is not printable.

    Names in a dataset may contain escape sequences, which a terminal would carry out.
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
