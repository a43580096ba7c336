"""`python tests/on_separate_device.py "train --seed 0" ...`: stages on a device that is not the CPU, without a GPU.

They run in the current folder, one after another, as `dvc repro` would have them run; `--without-float64` before them
makes the device one of Apple's kind. See separate_device.py.
"""

import contextlib
import runpy
import sys
import warnings
from typing import Any

import torch

sys.path.insert(0, "")

from separate_device import DEVICE, SeparateDevice

import pipeline.machine.float64
import pipeline.machine.seeding
from pipeline.params.machine import Numerics

_configure_torch = pipeline.machine.seeding.configure_torch


def _configure(numerics: Numerics) -> torch.device:
    _configure_torch(numerics)
    return DEVICE


def _no_autocast(*_args: Any, **_kwargs: Any) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()  # the real one does not know this device


def main() -> None:
    commands = sys.argv[1:]
    forbid_float64 = "--without-float64" in commands
    if forbid_float64:
        commands.remove("--without-float64")
        pipeline.machine.float64._WITHOUT_FLOAT64 = frozenset({DEVICE.type})
    pipeline.machine.seeding.configure_torch = _configure
    torch.autocast = _no_autocast  # type: ignore[assignment, misc]
    # It is none here: these tensors hold numbers.
    warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
    for command in commands:
        stage, *flags = command.split()
        sys.argv = [f"stages/{stage}.py", *flags]
        with SeparateDevice(forbid_float64=forbid_float64):
            runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
