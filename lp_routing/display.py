"""Display of values: a line of text, a small HTML table, or a pandas frame.

A class returns label -> value from `_shown`, the most important first, and sets

    __repr__ = as_text
    _repr_html_ = as_html

Labels with the value None are left out. A text of several lines goes below the others.
"""

import html
from collections.abc import Mapping
from enum import Enum
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from lp_routing.errors import InputError

if TYPE_CHECKING:
    import pandas

LISTED = 8
"""Longest vector that is shown entry by entry; longer ones by their range, to stay on a line."""

CELL = "text-align: left; vertical-align: top; white-space: pre-wrap"


class Shown(Protocol):
    """A value with `_shown`."""

    def _shown(self) -> Mapping[str, object]: ...


def as_text(value: Shown) -> str:
    """`Name(label=value, ...)`, then texts of several lines."""
    cells = _cells(value)
    line = ", ".join(f"{label}={cell}" for label, cell in cells.items() if "\n" not in cell)
    below = [cell for cell in cells.values() if "\n" in cell]
    return "\n".join([f"{type(value).__name__}({line})", *below])


def as_html(value: Shown) -> str:
    """The same as a table of two columns; colours are those of the page."""
    rows = "".join(
        f'<tr><th style="{CELL}">{html.escape(label)}</th>'
        f'<td style="{CELL}">{html.escape(cell)}</td></tr>'
        for label, cell in _cells(value).items()
    )
    name = html.escape(type(value).__name__)
    return f"<table><caption><b>{name}</b></caption><tbody>{rows}</tbody></table>"


def data_frame(who: str, otherwise: str = "") -> "type[pandas.DataFrame]":
    """The class of pandas, which is imported only here, as the import is slow.

    Args:
        who: asks for it, such as "to_frame".
        otherwise: a sentence on what to do without pandas.

    Raises:
        InputError: pandas cannot be imported.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise InputError(
            f"{who} returns a pandas DataFrame, but pandas cannot be imported: pip install "
            f"pandas. {otherwise}".rstrip()
        ) from error
    frames: type[pandas.DataFrame] = DataFrame
    return frames


def frame_of(value: Any) -> "pandas.DataFrame":
    """A frame of one row: the labels of `_shown` and their values as text."""
    return data_frame("to_frame")([_cells(value)])


def _cells(value: Shown) -> dict[str, str]:
    shown = value._shown()
    return {label: in_words(entry) for label, entry in shown.items() if entry is not None}


def in_words(value: object) -> str:
    """A value in few characters: six digits of a number, the name of a status, a short vector."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Tensor):
        return _vector(value)
    if isinstance(value, bool | int | str):
        return str(value)
    if isinstance(value, Fraction) and value.denominator == 1:
        return str(value)
    return f"{float(value):.6g}" if isinstance(value, Real) else repr(value)


def _vector(values: Tensor) -> str:
    """`[2, 0, 0.5]`, or `0..3.5 (64 numbers)` where there are many."""
    numbers = values.detach().double().flatten()
    if len(numbers) <= LISTED:
        return f"[{', '.join(f'{number:.6g}' for number in numbers.tolist())}]"
    least, most = (float(end) for end in torch.aminmax(numbers))
    return f"{least:.6g}..{most:.6g} ({len(numbers)} numbers)"
