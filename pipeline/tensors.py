"""Tensors on disk: `safetensors` files that are whole or absent, with the rights that every new file has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from pipeline.errors import NO_SPACE, InputError, no_space
from pipeline.files import aside, check_space, umask

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

# The library's errors are text: "I/O error: No space left on device (os error 28)".
_NO_SPACE = tuple(f"(os error {number})" for number in NO_SPACE)


def save_tensors(
    tensors: Mapping[str, Tensor] | Mapping[str, npt.NDArray[Any]],
    path: Path,
    *,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write arrays of numpy's, or contiguous tensors on the CPU, and nothing twice in memory.

    `safetensors` writes files that their owner alone can read (its issue 782): here they are as the umask has it.

    Raises:
        InputError: with the bytes needed and free, if the disk is full.
    """
    n_bytes = sum(int(each.nbytes) for each in tensors.values())
    check_space(path, n_bytes)
    with aside(path, n_bytes=n_bytes) as temporary:
        try:
            _save_file(tensors)(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:
            if not str(error).endswith(_NO_SPACE):
                raise
            raise InputError(no_space(path, n_bytes)) from None
        temporary.chmod(0o666 & ~umask())


def _save_file(tensors: Mapping[str, Any]) -> Callable[..., Any]:
    """The library's function for arrays or for tensors; torch is loaded for those alone."""
    if all(isinstance(each, np.ndarray) for each in tensors.values()):
        from safetensors.numpy import save_file as of_arrays

        return of_arrays
    from safetensors.torch import save_file

    return save_file
