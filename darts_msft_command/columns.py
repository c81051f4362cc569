"""Columns of text as numbers, by how these are written."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from darts_msft_command.clocks import Unusable

MISSING = ("", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>")  # in any case
SPACES = re.compile("[\u00a0\u2009\u202f]")  # as files have them between thousands
LIKE = re.compile(r"[-+]?(?=[.,]?\d)(\d{1,3}(?:[.,' ]\d{2,3})*[.,' ]\d{3}|\d*)([.,]\d*)?(e[-+]?\d+)?", re.IGNORECASE)
PERHAPS_THOUSANDS = re.compile(r"[-+]?(0|[1-9]\d{0,2}(\.\d{3})?)")


class Signs(NamedTuple):
    """What stands before decimals and between thousands."""

    decimal: str = "."
    thousands: str | None = None


PLAIN = Signs()


def told(column: pd.Series) -> pd.Series:
    """The text of what is not missing, its spaces alike."""
    text = column.dropna().astype(str).str.replace(SPACES, " ", regex=True).str.strip()
    return text[~text.str.lower().isin(MISSING)]


def numbers(column: pd.Series, signs: Signs) -> pd.Series | None:
    """A column's numbers, NaN where it has none; None: it is of text. Raises Unusable where most of it is numbers."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.infer_dtype(column, skipna=True) == "decimal":
        found = column.astype(float)
        if np.isinf(found).any():
            _refuse(column, column[np.isinf(found)])
        return found
    if not pd.api.types.is_object_dtype(column) and not pd.api.types.is_string_dtype(column):
        return None
    found = pd.to_numeric(column, errors="coerce") if signs == PLAIN else pd.Series(np.nan, column.index)
    rest = told(column[~np.isfinite(found)])
    if len(rest) and rest.str.lower().isin(["true", "false"]).all() and found.isna().all():
        return (rest.str.lower() == "true").astype(float).reindex(column.index)
    found[rest.index] = pd.to_numeric(rest if signs == PLAIN else _pointed(rest, signs), errors="coerce")
    wrong = rest[~np.isfinite(found[rest.index])]
    if wrong.empty:
        return found.astype(float)
    like = wrong.str.fullmatch(LIKE)
    if (~like).sum() >= np.isfinite(found).sum() + like.sum():
        return None
    if not like.all():
        _refuse(column, wrong[~like])
    said = "" if signs == PLAIN else ", not so as --decimal and --thousands have it"
    raise Unusable(
        f"column {column.name!r} holds numbers such as {wrong.iloc[0]!r}{said}: say how they are written, as in "
        "--thousands , for 1,234.5, --thousands ' ' for 1 234 or --decimal , for 0,5"
    )


def _refuse(column: pd.Series, strange: pd.Series) -> None:
    raise Unusable(
        f"column {column.name!r} holds '{strange.iloc[0]}' (row {strange.index[0] + 2} of the file; {len(strange)} of "
        f"{len(column)} rows are no numbers): leave these empty, correct them, or name other columns in --target"
    )


def _pointed(text: pd.Series, signs: Signs) -> pd.Series:
    """Numbers as Python has them; NaN where they are not written by these signs."""
    between = "" if signs.thousands is None else SPACES.sub(" ", signs.thousands)
    large = rf"|\d{{1,3}}({re.escape(between)}\d{{2,3}})*{re.escape(between)}\d{{3}}" if between else ""
    mine = text.str.fullmatch(rf"[-+]?(\d*{large})({re.escape(signs.decimal)}\d*)?([eE][-+]?\d+)?")
    return text.where(mine).str.replace(between, "", regex=False).str.replace(signs.decimal, ".", regex=False)


def perhaps_thousands(column: pd.Series) -> str | None:
    """A number such as 1.012 of a column of text in which each that has a point might be of thousands."""
    text = told(column)
    pointed = text[text.str.contains(".", regex=False)]
    return str(pointed.iloc[0]) if len(pointed) and text.str.fullmatch(PERHAPS_THOUSANDS).all() else None
