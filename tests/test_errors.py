"""Which errors are the user's or the machine's, and what their one line says."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import InputError, line_of, no_space


def raised(kind: type[BaseException], call: object) -> BaseException:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    return caught.value


def test_a_full_disk_is_named_with_the_path_and_what_is_free(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    error = OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/none/file")
    line = line_of(error)
    assert line is not None
    assert line.startswith(f"{tmp_path}/none/file: expected more room on the disk, got ")
    said = int(line.partition(", got ")[2].partition(" bytes free")[0].replace(",", ""))
    assert abs(said - free.f_bavail * free.f_frsize) < 2**33  # others write here, too
    assert "room for 12,345 bytes, got " in no_space(tmp_path / "file", 12_345)
    assert line_of(OSError(errno.EDQUOT, "Disk quota exceeded")) is not None


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOTDIR],
)
def test_what_the_system_refuses_is_a_line_with_the_file(number: int) -> None:
    error = OSError(number, os.strerror(number), "a/file")
    assert line_of(error) == f"a/file: cannot be read or written ({os.strerror(number)})"


def test_memory_that_is_not_there_is_a_line_with_what_was_asked_for() -> None:
    real = raised(RuntimeError, lambda: torch.empty(2**50))
    line = line_of(real)
    assert line is not None
    assert line.startswith(f"out of memory ({4 * 2**50} bytes asked for): expected room for one job")
    line = line_of(raised(MemoryError, lambda: np.ones(2**50)))
    assert line is not None
    assert line.startswith("out of memory (8.00 PiB asked for): ")
    assert (line_of(MemoryError()) or "").startswith("out of memory: ")
    cuda = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
    )
    assert (line_of(cuda) or "").startswith("out of memory (2.00 GiB asked for): ")


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), RuntimeError("shape"), FileNotFoundError(2, "No such file", "x"), KeyError("x")],
    ids=repr,
)
def test_every_other_error_is_the_programs(error: Exception) -> None:
    assert line_of(error) is None


def test_an_input_error_is_its_own_line() -> None:
    assert line_of(InputError("a: expected b, got c")) == "a: expected b, got c"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    """Names come from files and folders: controls, escape sequences, letters that are none."""
    line = line_of(InputError("Größe 図 \x9b2J \x1b[31m a\rb \u2028 \ud800 \U000f0000\nsecond"))
    assert line == r"Größe 図 \x9b2J \x1b[31m a\rb \u2028 \ud800 \U000f0000" + "\nsecond"
