"""Tab-separated tables that come with face images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

# How far down the names of the columns may stand: one line of file format comes before them at most.
_HEADER_WITHIN = 2


@dataclass(frozen=True)
class Row:
    """Some columns of a line; `where` is its file and number, for errors."""

    where: str
    values: tuple[str, ...]


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, without their ends.

    Raises:
        InputError: if it is missing or no text.
    """
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{file}: expected text in UTF-8") from None
    except OSError as error:
        raise InputError(f"{file}: expected a file to read ({error.strerror})") from None


def read_table(file: Path, columns: Sequence[str]) -> list[Row]:
    """The named columns of each row, in that order.

    The header is the first line that has the first of the columns; `#` before it is passed over.

    Raises:
        InputError: if the file is missing, has no such column, no rows, or a row that is too short.
    """
    lines = read_lines(file)
    at, header = next(
        (
            (at, fields)
            for at, line in enumerate(lines[:_HEADER_WITHIN])
            if columns[0] in (fields := line.lstrip("#\t").rstrip().split("\t"))
        ),
        (0, [""]),
    )
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{file}: expected the column {missing[0]!r} in a tab-separated table, got none")
    places = [header.index(name) for name in columns]
    rows = []
    for number, line in enumerate(lines[at + 1 :], at + 2):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < len(header):
            raise InputError(f"{file}:{number}: expected {len(header)} columns, got {len(fields)}")
        rows.append(Row(f"{file}:{number}", tuple(fields[place].strip() for place in places)))
    if not rows:
        raise InputError(f"{file}: expected rows below the column names, got none")
    return rows
