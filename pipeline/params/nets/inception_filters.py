"""Filter tables of the Inception modules (GoogLeNet, BN-Inception, "Rethinking"), read without loading torch."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from pipeline.params.nets.widths import scaled_width

Pool = Literal["average", "max"]


class Filters(NamedTuple):
    """One module of GoogLeNet (Table 1): 1x1; 1x1-3x3; 1x1-5x5; max pool 3x3-1x1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


class Double3x3Filters(NamedTuple):
    """One module with two 3x3 in place of a 5x5 ("Rethinking" Figure 5): 1x1; 1x1-3x3; 1x1-3x3-3x3; pool-1x1."""

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double_first: int
    double: int
    pool: int
    pool_kind: Pool = "average"


class FactorizedFilters(NamedTuple):
    """One module of "Rethinking" Figure 6: 1x1; 1x1-1xn-nx1; 1x1-nx1-1xn-nx1-1xn; average pool-1x1.

    `inner` is torchvision's `channels_7x7`: every convolution of the two long branches but their last.
    """

    one: int
    inner: int
    factorized: int
    double: int
    pool: int


class ExpandedFilters(NamedTuple):
    """One module of "Rethinking" Figure 7: 1x1; 1x1-(1x3|3x1); 1x1-3x3-(1x3|3x1); average pool-1x1.

    `three` and `double` are the filters of the 1x3 and again of the 3x1 beside it.
    """

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool: int


class ReductionFilters(NamedTuple):
    """A stride-2 module ("Rethinking" Figure 10): [1x1-]3x3; 1x1-3x3-3x3; max pool that passes its input on.

    `three_reduce` is None where no 1x1 stands before the strided 3x3.
    """

    three_reduce: int | None
    three: int
    double_reduce: int
    double: int


class FactorizedReductionFilters(NamedTuple):
    """The second stride-2 module of v3: 1x1-3x3; 1x1-1xn-nx1-3x3; max pool that passes its input on."""

    three_reduce: int
    three: int
    factorized: int


ModuleRow = Filters | Double3x3Filters | FactorizedFilters | ExpandedFilters
ReductionRow = ReductionFilters | FactorizedReductionFilters
_Row = TypeVar("_Row", bound=ModuleRow | ReductionRow)

# GoogLeNet's filter table: modules 3a-3b, 4a-4e, 5a-5b.
GOOGLENET: tuple[tuple[Filters, ...], ...] = (
    (Filters(64, 96, 128, 16, 32, 32), Filters(128, 128, 192, 32, 96, 64)),
    (
        Filters(192, 96, 208, 16, 48, 64),
        Filters(160, 112, 224, 24, 64, 64),
        Filters(128, 128, 256, 24, 64, 64),
        Filters(112, 144, 288, 32, 64, 64),
        Filters(256, 160, 320, 32, 128, 128),
    ),
    (Filters(256, 160, 320, 32, 128, 128), Filters(384, 192, 384, 48, 128, 128)),
)

# CVIU section 4; the first 3x3 is as wide as the reduction before it (thesis, appendix A).
GOOGLENET_DOUBLE_3X3: tuple[tuple[Double3x3Filters, ...], ...] = tuple(
    tuple(
        Double3x3Filters(f.one, f.three_reduce, f.three, f.five_reduce, f.five_reduce, f.five, f.pool)
        for f in rows
    )
    for rows in GOOGLENET
)

# BN-Inception: 3a-3b, 4a-4d, 5a-5b. Both 3x3 of the double branch have the width of its column. The table
# prints pool projections of 128 for 4c and 4d, which would make them 608 wide; its own output sizes (576, 576,
# then 1024 after 4e) and the authors' later code (TF-Slim's inception_v2) have 96.
BN_INCEPTION: tuple[tuple[Double3x3Filters, ...], ...] = (
    (Double3x3Filters(64, 64, 64, 64, 96, 96, 32), Double3x3Filters(64, 64, 96, 64, 96, 96, 64)),
    (
        Double3x3Filters(224, 64, 96, 96, 128, 128, 128),
        Double3x3Filters(192, 96, 128, 96, 128, 128, 128),
        Double3x3Filters(160, 128, 160, 128, 160, 160, 96),
        Double3x3Filters(96, 128, 192, 160, 192, 192, 96),
    ),
    (
        Double3x3Filters(352, 192, 320, 160, 224, 224, 128),
        Double3x3Filters(352, 192, 320, 192, 224, 224, 128, "max"),
    ),
)
# Its stride-2 modules 3c and 4e.
BN_INCEPTION_REDUCTIONS = (ReductionFilters(128, 160, 64, 96), ReductionFilters(128, 192, 192, 256))

# "Rethinking Inception" leaves its filter sizes to a file beside the paper; these are torchvision's Inception-v3
# (Mixed_5b-5d with 3x3-3x3 for 5x5 as in Figure 5, Mixed_6b-6e, Mixed_7b-7c).
INCEPTION_V3: tuple[tuple[ModuleRow, ...], ...] = (
    (
        Double3x3Filters(64, 48, 64, 64, 96, 96, 32),
        Double3x3Filters(64, 48, 64, 64, 96, 96, 64),
        Double3x3Filters(64, 48, 64, 64, 96, 96, 64),
    ),
    (
        FactorizedFilters(192, 128, 192, 192, 192),
        FactorizedFilters(192, 160, 192, 192, 192),
        FactorizedFilters(192, 160, 192, 192, 192),
        FactorizedFilters(192, 192, 192, 192, 192),
    ),
    (ExpandedFilters(320, 384, 384, 448, 384, 192), ExpandedFilters(320, 384, 384, 448, 384, 192)),
)
# Mixed_6a and Mixed_7a.
INCEPTION_V3_REDUCTIONS = (ReductionFilters(None, 384, 64, 96), FactorizedReductionFilters(192, 320, 192))


class ModuleTable(NamedTuple):
    """A module type: the rows of its three stages, and the stride-2 modules between them (none: max pools)."""

    stages: Sequence[Sequence[ModuleRow]]
    reductions: Sequence[ReductionRow] = ()


MODULES: dict[str, ModuleTable] = {
    "v1": ModuleTable(GOOGLENET),
    "v1_double3x3": ModuleTable(GOOGLENET_DOUBLE_3X3),
    "v2": ModuleTable(BN_INCEPTION, BN_INCEPTION_REDUCTIONS),
    "v3": ModuleTable(INCEPTION_V3, INCEPTION_V3_REDUCTIONS),
}


def stage_limits(module: str) -> tuple[int, int, int]:
    """Rows of a module type's filter table in each of the three stages.

    Raises:
        ValueError: for an unknown module type.
    """
    if module not in MODULES:
        raise ValueError(f"expected a module among {', '.join(MODULES)}; got {module!r}")
    first, second, third = (len(rows) for rows in MODULES[module].stages)
    return first, second, third


def check_stages(module: str, stages: Sequence[int], base: Sequence[int]) -> None:
    """Refuse what no net can be built of.

    Args:
        module: the module type, see `MODULES`.
        stages: modules in each of the three stages.
        base: rows of the filter table that each stage takes.

    Raises:
        ValueError: for an unknown module type, or stages or base out of its range.
    """
    limits = stage_limits(module)
    if len(stages) != 3 or min(stages) < 1:
        raise ValueError(f"expected three stages of at least one module each, got {tuple(stages)}")
    if len(base) != 3 or not all(1 <= n <= limit for n, limit in zip(base, limits, strict=True)):
        raise ValueError(f"expected base between (1, 1, 1) and {limits}, got {tuple(base)}")


def check_factorized_kernel(size: int) -> None:
    """Refuse an n of 1xn that is not odd and at least 3 (an even one would shift the maps).

    Raises:
        ValueError: naming the value.
    """
    if size < 3 or size % 2 == 0:
        raise ValueError(f"expected an odd factorized_kernel of at least 3, got {size}")


def stage_rows(
    module: str, stages: Sequence[int], base: Sequence[int], width: float
) -> list[list[ModuleRow]]:
    """The rows of every stage's modules under a width multiplier; beyond `base`, copies of the last row taken.

    Raises:
        ValueError: as `check_stages`, or for a width that is not positive.
    """
    check_stages(module, stages, base)
    return [
        [_scaled(rows[min(idx, n_base - 1)], width) for idx in range(n_modules)]
        for rows, n_modules, n_base in zip(MODULES[module].stages, stages, base, strict=True)
    ]


def reduction_rows(module: str, width: float) -> list[ReductionRow]:
    """The stride-2 modules after stages 1 and 2 under a width multiplier; empty where max pools stand there."""
    return [_scaled(row, width) for row in MODULES[module].reductions]


def _scaled(row: _Row, width: float) -> _Row:
    scaled: list[Any] = [scaled_width(each, width) if isinstance(each, int) else each for each in row]
    return type(row)(*scaled)
