"""Measuring within the memory that there is: a batch that does not fit is halved."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.errors import InputError, says_out_of_memory

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the host, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or says_out_of_memory(error)


def in_fitting_batches(compute: Callable[[int], Result], batch_size: int) -> Result:
    """`compute(batch_size)`, from the beginning again at half the size whenever a device's memory is exhausted.

    For what does not depend on its batch size: scores, features, utilities, attacks. Training is not among it.

    Raises:
        InputError: if a single image is too much.
    """
    while True:
        try:
            return compute(batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise InputError("the device's memory cannot hold this model and a single image") from None
        batch_size //= 2  # outside of the handler, which keeps the failed pass's tensors alive
        torch.cuda.empty_cache()
        log.warning("out of memory: %d images at a time from here on", batch_size)
