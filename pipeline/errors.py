"""The one exception for what a user can put right, and the errors of disks and memory that become it."""

import errno
import re
import shutil
from pathlib import Path

# What a full disk, a full quota and a bound on the size of files are called.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What else no program can help: no right to a file, a disk that gives nothing, too many open files, a name too long.
_OF_FILES = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
    ),
)
# Of RuntimeErrors that are no torch.OutOfMemoryError: mps's, and the CPU's for one tensor that is too large.
_NO_MEMORY = ("out of memory", "can't allocate memory")
# "you tried to allocate 8 bytes", "Tried to allocate 2.00 GiB", "Unable to allocate 40.0 GiB for an array".
_ASKED_FOR = re.compile(r"(?:[tT]ried|Unable) to allocate (\d[\d.]* \w+)")


class InputError(Exception):
    """Bad params, data, checkpoint or device: one line saying where, what was expected and what was got.

    Stages print it without a traceback and exit with 1; every other exception is a defect of the program. What a
    terminal would not show, or would obey, is escaped: names and values come from outside.
    """

    def __init__(self, line: str) -> None:
        super().__init__(
            "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in line)
        )


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def says_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the host, has no memory left."""
    return any(words in str(error) for words in _NO_MEMORY)


def line_of(error: BaseException) -> str | None:
    """One line on an error that is the user's or the machine's; None where it is the program's."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (*NO_SPACE, *_OF_FILES):
        if error.errno in NO_SPACE:
            return no_space(Path(error.filename or Path.cwd()))
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}cannot be read or written ({error.strerror})"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_out_of_memory(error)):
        asked = _ASKED_FOR.search(str(error))
        how_much = f" ({asked[1]} asked for)" if asked else ""
        return (
            f"out of memory{how_much}: expected room for one job of this stage; take fewer at a time (runtime.jobs), "
            "smaller batches, or fewer or smaller images"
        )
    return None


def no_space(path: Path, n_bytes: int | None = None) -> str:
    """One line on a disk that is full, or will be: what does not fit, its bytes if they are known, and those free."""
    folder = next(each for each in (path, *path.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    needed = "more room on the disk" if n_bytes is None else f"room for {n_bytes:,} bytes"
    return (
        f"{path}: expected {needed}, got {free:,} bytes free; make room (runtime.store_gib bounds the job store) and "
        "run it again: finished jobs are kept"
    )
