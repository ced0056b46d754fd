"""Which of rows with the same key and times counts: one order, which Spark and PostgreSQL have by themselves.

Columns decide one after another, and the greatest value wins: null is the lowest, NaN the greatest, -0.0 equals 0.0,
text goes by its bytes in UTF-8. A column of a type that has no order, as maps, decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from adin.features.repo import View


def deciding(view: View, rows: pa.Table) -> list[pa.ChunkedArray]:
    """Return the columns that decide, in their order: whether a row is marked as deleted, then the features."""
    marks = [pc.fill_null(rows[view.deleted].cast(pa.bool_()), False)] if view.deleted else []
    return [*marks, *(rows[name] for name, _ in view.features)]


def ordered(numbers: Sequence[np.ndarray], columns: Sequence[pa.ChunkedArray]) -> np.ndarray:
    """Return the places of rows sorted by numbers, and by columns where all numbers are the same.

    :param numbers: the first decides first; :param columns: the same, read of tied rows only.
    """
    places = np.lexsort(tuple(reversed(numbers)))
    tied = _tied([each[places] for each in numbers])
    if tied.any():
        some = places[tied]
        decided = [*(each[some] for each in numbers), *(_decided(each.take(pa.array(some))) for each in columns)]
        places[tied] = some[np.lexsort(tuple(reversed(decided)))]
    return places


def _tied(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Tell of each of some sorted rows whether one beside it is the same."""
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.append(same, False) | np.append(False, same)


def _decided(column: pa.ChunkedArray) -> np.ndarray:
    try:
        return _ranks(column)
    except pa.ArrowNotImplementedError:  # it, or something in it, has no order
        return np.zeros(len(column), np.int64)


def _ranks(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return whole numbers in the order of some values; null is 0."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int64)
    if pa.types.is_dictionary(kind):
        return _ranks(column.cast(kind.value_type))
    if pa.types.is_float16(kind):  # Arrow ranks none
        return _ranks(column.cast(pa.float32()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = np.asarray(pc.list_value_length(column).fill_null(0))
        parts = np.full((len(column), 1 + lengths.max(initial=0)), -1)  # a list ends before it goes on
        parts[:, :-1][np.arange(parts.shape[1] - 1) < lengths[:, None]] = _ranks(column.flatten())
        ranks = np.unique(parts, axis=0, return_inverse=True)[1] + 1
    elif pa.types.is_struct(kind):
        parts = np.stack([_ranks(each) for each in column.flatten()], axis=1)
        ranks = np.unique(parts, axis=0, return_inverse=True)[1] + 1
    else:
        ranks = np.asarray(pc.rank(column, "ascending", tiebreaker="dense")).astype(np.int64)  # NaN before null
    return np.where(np.asarray(column.is_valid()), ranks, 0)
