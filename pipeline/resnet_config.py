"""The papers' notation for residual nets (CVIU Tables 3 and 4), read without loading torch."""

import re
from typing import NamedTuple

from pipeline.widths import scaled_width

_STEM_CHANNELS = 64
_BOTTLENECK_EXPANSION = 4
_MODULE = re.compile(r"(?P<depth>\d*)(?P<kind>[icIC])(?P<filters>\d+)")


class ModuleSpec(NamedTuple):
    """One residual module: how many convolutions, whether the shortcut is a 1x1 convolution, its filters."""

    depth: int
    projected: bool
    filters: int

    @property
    def out_channels(self) -> int:
        """Channels of the module's output; a depth-3 module is He et al.'s bottleneck."""
        return self.filters * (_BOTTLENECK_EXPANSION if self.depth == 3 else 1)


def parse_config(config: str) -> list[list[ModuleSpec]]:
    """Read a configuration such as `(c64, i64)-c128-1c256` into stages of modules.

    `i`/`c`: depth-2 identity / convolutional module, `I`/`C`: depth 3, the number after it: filters of each
    convolution, a number before it: another depth; dashes part stages, parentheses group a stage's modules.

    Raises:
        ValueError: naming the part that does not follow the notation.
    """
    stages = []
    for part in config.replace(" ", "").split("-"):
        stage = []
        grouped = part[1:-1] if part.startswith("(") and part.endswith(")") else part
        for word in grouped.split(","):
            match = _MODULE.fullmatch(word)
            if match is None:
                raise ValueError(f"expected modules such as i64 or C128 in a ResNet config, got {word!r}")
            kind = match["kind"]
            depth = int(match["depth"]) if match["depth"] else (3 if kind.isupper() else 2)
            if not 1 <= depth <= 3:
                raise ValueError(f"expected a module depth between 1 and 3, got {word!r}")
            if int(match["filters"]) < 1:
                raise ValueError(f"expected at least one filter in a module, got {word!r}")
            stage.append(ModuleSpec(depth, kind.lower() == "c", int(match["filters"])))
        stages.append(stage)
    return stages


class PlannedModule(NamedTuple):
    """A module in its place: what it reads, what it is (widths applied), and its stride."""

    in_channels: int
    spec: ModuleSpec
    stride: int


def plan_modules(config: str, width: float) -> list[list[PlannedModule]]:
    """The stages of a configuration under a width multiplier; every stage after the first begins at stride 2.

    Raises:
        ValueError: as `parse_config`, or for an identity module that would have to change channels or size.
    """
    channels = scaled_width(_STEM_CHANNELS, width)
    stages = []
    for idx, stage in enumerate(parse_config(config)):
        planned = []
        for position, named in enumerate(stage):
            spec = named._replace(filters=scaled_width(named.filters, width))
            stride = 2 if idx > 0 and position == 0 else 1
            if not spec.projected and (stride != 1 or channels != spec.out_channels):
                raise ValueError(
                    f"expected an identity module to keep {channels} channels at stride 1, got "
                    f"{spec.out_channels} channels at stride {stride} in {config!r}; use a convolutional one (c, C)"
                )
            planned.append(PlannedModule(channels, spec, stride))
            channels = spec.out_channels
        stages.append(planned)
    return stages
