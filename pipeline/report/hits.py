"""Which images were right, row by row of a table: what every interval is computed from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.uncertainty import Values, pack_hits, unpack_hits

# Before the names of a table's counts and hits: the images that they are of, where a table has several.
_PARTS = ("", "validation_", "test_", "noisy_")


def with_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `accuracy`, the one division of its counts, and hits as masks (n,); one without as it is.

    Raises:
        ValueError: if hits are not those that were counted.
    """
    table = table.copy()
    if "n_correct" in table:
        table = table.assign(accuracy=table["n_correct"] / table["n"])
    for part in _parts(table):
        packed = zip(table[f"{part}hits"], table[f"{part}n"], strict=True)
        masks = [unpack_hits(hits, int(n)) for hits, n in packed]
        if [int(mask.sum()) for mask in masks] != table[f"{part}n_correct"].tolist():
            raise ValueError(f"expected {part}hits to be as many as {part}n_correct")
        table[f"{part}hits"] = pd.Series(masks, index=table.index, dtype=object)
    return table


def without_hits(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it, with counts alone."""
    packed = [f"{part}hits" for part in _parts(table)]
    return table.drop(columns=[*packed, "distances"] if "distances" in table else packed)


def packed_again(table: pd.DataFrame) -> pd.DataFrame:
    """The table as the stages wrote it, for whoever pairs two reports image by image."""
    packed = {f"{part}hits": [pack_hits(mask) for mask in table[f"{part}hits"]] for part in _parts(table)}
    return table.assign(**packed)


def _parts(table: pd.DataFrame) -> list[str]:
    return [part for part in _PARTS if f"{part}hits" in table]


def hits_of(rows: pd.DataFrame, part: str = "") -> Values:
    """The hits (seeds, images) of rows, one for each seed, as 0 and 1.

    Raises:
        ValueError: if the seeds have not the same number of images.
    """
    return np.stack([*rows[f"{part}hits"]]).astype(np.float64)


def more_hits(
    rows: pd.DataFrame, others: pd.DataFrame, part: str = "", *, other_part: str | None = None
) -> Values:
    """Hits of rows less those of others (seeds, images), seed by seed on the same images.

    `part` stands before the columns' names, `other_part` before the others' where it is another.

    Raises:
        ValueError: if they are of different seeds, or of different numbers of images.
    """
    if rows["seed"].tolist() != others["seed"].tolist():
        raise ValueError(f"expected rows of the seeds {[*others['seed']]}, got {[*rows['seed']]}")
    mine, theirs = hits_of(rows, part), hits_of(others, part if other_part is None else other_part)
    if mine.shape != theirs.shape:
        raise ValueError(f"expected hits on the same {theirs.shape[1]} images, got {mine.shape[1]}")
    return mine - theirs
