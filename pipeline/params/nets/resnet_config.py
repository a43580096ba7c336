"""The papers' notation for residual nets (CVIU Tables 3 and 4), read without loading torch."""

import re
from typing import NamedTuple

from pipeline.params.nets.widths import scaled_width

_STEM_CHANNELS = 64
_BOTTLENECK_EXPANSION = 4
# The stages of Table 4's nets, from ResNet-50 and He et al.'s ResNet-34 down: modules of depth 3 and of depth 2.
# Its rows are rebuilt by the rule printed in appendix C: the longest stage loses a module, of equally long ones
# the one nearest the image. In the text extracted from the paper, "I" became "i" and several rows miss modules.
_BOTTLENECK_STAGES = {
    50: (3, 4, 6, 3),
    47: (3, 4, 5, 3),
    44: (3, 4, 4, 3),
    41: (3, 3, 4, 3),
    38: (3, 3, 3, 3),
}
_BASIC_STAGES = {
    **{34: (3, 4, 6, 3), 32: (3, 4, 5, 3), 30: (3, 4, 4, 3), 28: (3, 3, 4, 3), 26: (3, 3, 3, 3)},
    **{24: (2, 3, 3, 3), 22: (2, 2, 3, 3), 20: (2, 2, 2, 3), 18: (2, 2, 2, 2)},
}
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


def _written(counts: tuple[int, ...], convolutional: str, identity: str) -> str:
    """Stages that begin with a convolutional module and go on with identity modules, in the notation."""
    filters = [_STEM_CHANNELS * 2**idx for idx in range(len(counts))]
    return "-".join(
        f"({', '.join([f'{convolutional}{n}', *[f'{identity}{n}'] * (count - 1)])})"
        for n, count in zip(filters, counts, strict=True)
    )


# CVIU Tables 3 and 4.
PUBLISHED: dict[str, str] = {
    "ResNet6": "i64-c128",
    "ResNet7": "i64-c128-1c256",
    "ResNet8": "i64-c128-c256",
    "ResNet9": "i64-c128-c256-1c512",
    "ResNet10": "c64-c128-c256-c512",
    "ResNet12": "(c64, i64)-c128-c256-c512",
    **{f"ResNet{n}": _written(_BASIC_STAGES[n], "c", "i") for n in sorted(_BASIC_STAGES)},
    **{f"ResNet{n}": _written(_BOTTLENECK_STAGES[n], "C", "I") for n in sorted(_BOTTLENECK_STAGES)},
}


def parse_config(config: str) -> list[list[ModuleSpec]]:
    """Read a configuration such as `(c64, i64)-c128-1c256`, or a name in `PUBLISHED`, into stages of modules.

    `i`/`c`: depth-2 identity / convolutional module, `I`/`C`: depth 3, the number after it: filters of each
    convolution, a number before it: another depth; dashes part stages, parentheses group a stage's modules.

    Raises:
        ValueError: naming the part that does not follow the notation.
    """
    stages = []
    for part in PUBLISHED.get(config, config).replace(" ", "").split("-"):
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
