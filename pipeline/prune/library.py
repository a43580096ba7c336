"""Torch-Pruning, loaded without timm, which it asks for on behalf of a counter that nobody here uses: two seconds."""

import sys

_BLOCKED = "timm" not in sys.modules
if _BLOCKED:
    sys.modules["timm"] = None  # type: ignore[assignment]
import torch_pruning  # noqa: E402
from torch_pruning.ops import OPTYPE  # noqa: E402

if _BLOCKED:
    del sys.modules["timm"]

__all__ = ["OPTYPE", "torch_pruning"]
