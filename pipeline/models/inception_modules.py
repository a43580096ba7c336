"""The Inception modules: branches side by side, whose outputs are concatenated."""

from collections.abc import Callable

from torch import Tensor, cat, nn

from pipeline.models.blocks import ConvBnRelu
from pipeline.params.nets.inception_filters import (
    Double3x3Filters,
    ExpandedFilters,
    FactorizedFilters,
    FactorizedReductionFilters,
    Filters,
    ModuleRow,
    ReductionFilters,
    ReductionRow,
)

Kernel = int | tuple[int, int]
MakePath = Callable[..., nn.Sequential]
Branches = dict[str, nn.Module]


class Fork(nn.Module):
    """Convolutions that read the same maps; their outputs are concatenated ("Rethinking" Figure 7)."""

    def __init__(self, *paths: nn.Module) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, sum of the paths' filters, h, w)."""
        return cat([path(x) for path in self.paths], dim=1)


class InceptionModule(nn.Module):
    """Branches side by side; each child is one, in the order of the concatenation.

    Args:
        in_channels: channels of the maps that every branch reads.
        branches: by name, in order.
    """

    def __init__(self, in_channels: int, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self._built_for = in_channels
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride), rounded up."""
        return cat([branch(x) for branch in self.children()], dim=1)

    @property
    def branch_names(self) -> tuple[str, ...]:
        """The branches that the module has, in the order of the concatenation."""
        return tuple(name for name, _ in self.named_children())

    @property
    def in_channels(self) -> int:
        """Channels that the module reads, after surgery too: those of a branch's first convolution."""
        first = next((each for each in self.modules() if isinstance(each, nn.Conv2d)), None)
        return self._built_for if first is None else first.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the concatenation, after surgery too; a pool without convolution passes its input on."""
        ends = [self.branch_ends(name) for name in self.branch_names]
        return sum(sum(conv.out_channels for conv in each) if each else self.in_channels for each in ends)

    @property
    def depth(self) -> int:
        """Convolutions on the longest way through the module."""
        return max(
            len(self._convolutions(name)) - max(0, len(self.branch_ends(name)) - 1)
            for name in self.branch_names
        )

    def branch_ends(self, name: str) -> tuple[nn.Conv2d, ...]:
        """The convolutions whose outputs are a branch's output: one, a fork's two, or none after a bare pool.

        Raises:
            ValueError: for a branch that the module does not have.
        """
        convolutions = self._convolutions(name)
        forks = [each for each in self.get_submodule(name).modules() if isinstance(each, Fork)]
        n_ends = len(forks[-1].paths) if forks else 1
        return convolutions[-n_ends:]

    def remove_branch(self, name: str) -> None:
        """Delete a branch; what reads the module is left to the caller.

        Raises:
            ValueError: for a branch that the module does not have, or its last one.
        """
        self._check_branch(name)
        if len(self.branch_names) == 1:
            raise ValueError(f"expected at least one branch to remain, got {name!r}, the last one")
        delattr(self, name)

    def _convolutions(self, name: str) -> tuple[nn.Conv2d, ...]:
        self._check_branch(name)
        return tuple(each for each in self.get_submodule(name).modules() if isinstance(each, nn.Conv2d))

    def _check_branch(self, name: str) -> None:
        if name not in self.branch_names:
            raise ValueError(f"expected a branch among {', '.join(self.branch_names)}; got {name!r}")


def build_module(
    in_channels: int, row: ModuleRow | ReductionRow, *, kernel: int, batch_norm: bool, padded: bool = True
) -> InceptionModule:
    """The module that a row of the filter tables stands for.

    Args:
        in_channels: channels of the maps that it reads.
        row: its filters.
        kernel: the n of 1xn, where it has one.
        batch_norm: as for `ConvBnRelu`.
        padded: False leaves padding out where a stride-2 module halves the grid: 35 pixels become 17.
    """
    path = _path_from(in_channels, batch_norm)
    match row:
        case Filters():
            branches = _googlenet(row, path)
        case Double3x3Filters():
            branches = _double_3x3(row, path)
        case FactorizedFilters():
            branches = _factorized(row, path, kernel)
        case ExpandedFilters():
            branches = _expanded(row, path)
        case ReductionFilters():
            branches = _reduction(row, path, padded)
        case FactorizedReductionFilters():
            branches = _factorized_reduction(row, path, kernel, padded)
    return InceptionModule(in_channels, branches)


def _googlenet(f: Filters, path: MakePath) -> Branches:
    """GoogLeNet's module ("Rethinking" Figure 4): 1x1; 1x1-3x3; 1x1-5x5; max pool 3x3-1x1."""
    return {
        "branch1x1": path((f.one, 1))[0],
        "branch3x3": path((f.three_reduce, 1), (f.three, 3)),
        "branch5x5": path((f.five_reduce, 1), (f.five, 5)),
        "branch_pool": nn.Sequential(_max_pool(stride=1), *path((f.pool, 1))),
    }


def _double_3x3(f: Double3x3Filters, path: MakePath) -> Branches:
    """Two 3x3 for a 5x5 ("Rethinking" Figure 5): 1x1; 1x1-3x3; 1x1-3x3-3x3; pool 3x3-1x1."""
    pool = _max_pool(stride=1) if f.pool_kind == "max" else _average_pool()
    return {
        "branch1x1": path((f.one, 1))[0],
        "branch3x3": path((f.three_reduce, 1), (f.three, 3)),
        "branch_double3x3": path((f.double_reduce, 1), (f.double_first, 3), (f.double, 3)),
        "branch_pool": nn.Sequential(pool, *path((f.pool, 1))),
    }


def _factorized(f: FactorizedFilters, path: MakePath, kernel: int) -> Branches:
    """nxn as 1xn and nx1 ("Rethinking" Figure 6): 1x1; 1x1-1xn-nx1; 1x1-nx1-1xn-nx1-1xn; average pool-1x1."""
    row, column, inner = (1, kernel), (kernel, 1), f.inner
    return {
        "branch1x1": path((f.one, 1))[0],
        "branch_nxn": path((inner, 1), (inner, row), (f.factorized, column)),
        "branch_double_nxn": path(
            (inner, 1), (inner, column), (inner, row), (inner, column), (f.double, row)
        ),
        "branch_pool": nn.Sequential(_average_pool(), *path((f.pool, 1))),
    }


def _expanded(f: ExpandedFilters, path: MakePath) -> Branches:
    """Expanded outputs ("Rethinking" Figure 7): 1x1; 1x1-(1x3|3x1); 1x1-3x3-(1x3|3x1); average pool-1x1."""

    def fork(reads: int, filters: int) -> Fork:
        return Fork(*(path((filters, kernel), reads=reads)[0] for kernel in ((1, 3), (3, 1))))

    long = (f.double_reduce, 1), (f.double, 3)
    return {
        "branch1x1": path((f.one, 1))[0],
        "branch3x3": nn.Sequential(*path((f.three_reduce, 1)), fork(f.three_reduce, f.three)),
        "branch_double3x3": nn.Sequential(*path(*long), fork(f.double, f.double)),
        "branch_pool": nn.Sequential(_average_pool(), *path((f.pool, 1))),
    }


def _reduction(f: ReductionFilters, path: MakePath, padded: bool) -> Branches:
    """Half the grid, more channels ("Rethinking" Figure 10): [1x1-]3x3; 1x1-3x3-3x3; max pool, all at stride 2.

    Every branch reads all of the input, so that no narrow pool stands between the stages. Padded, 28 pixels become
    14 and 7 become 4; as in the paper's Table 1, unpadded, 35 become 17.
    """
    strided = path((f.three, 3), stride=2, padded=padded, reads=f.three_reduce)[0]
    return {
        "branch3x3": strided
        if f.three_reduce is None
        else nn.Sequential(*path((f.three_reduce, 1)), strided),
        "branch_double3x3": path((f.double_reduce, 1), (f.double, 3), (f.double, 3), stride=2, padded=padded),
        "branch_pool": _max_pool(stride=2, padded=padded),
    }


def _factorized_reduction(
    f: FactorizedReductionFilters, path: MakePath, kernel: int, padded: bool
) -> Branches:
    """The reduction after factorised modules: 1x1-3x3; 1x1-1xn-nx1-3x3; max pool; the last of each at stride 2."""
    n = f.factorized
    return {
        "branch3x3": path((f.three_reduce, 1), (f.three, 3), stride=2, padded=padded),
        "branch_nxn": path((n, 1), (n, (1, kernel)), (n, (kernel, 1)), (n, 3), stride=2, padded=padded),
        "branch_pool": _max_pool(stride=2, padded=padded),
    }


def _path_from(in_channels: int, batch_norm: bool) -> MakePath:
    """Makes paths of convolutions by (filters, kernel), the last one at `stride` and only then perhaps unpadded.

    A path reads the module's input or, as the end of a branch, `reads` channels.
    """

    def path(
        *layers: tuple[int, Kernel], stride: int = 1, padded: bool = True, reads: int | None = None
    ) -> nn.Sequential:
        made, channels = nn.Sequential(), in_channels if reads is None else reads
        for idx, (filters, kernel) in enumerate(layers, start=1):
            step, zeros = (stride, padded) if idx == len(layers) else (1, True)
            made.append(
                ConvBnRelu(channels, filters, kernel, stride=step, padded=zeros, batch_norm=batch_norm)
            )
            channels = filters
        return made

    return path


def _max_pool(*, stride: int, padded: bool = True) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride, padding=1 if padded else 0)


def _average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
