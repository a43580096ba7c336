"""Inception nets: Inception-N (CVIU section 4; thesis 4.2, appendix A), GoogLeNet, BN-Inception and v3's modules."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from pipeline.models.auxiliary import AuxiliaryHead
from pipeline.models.blocks import ConvBnRelu, LatentHead, check_stem
from pipeline.models.inception_modules import InceptionModule, build_module
from pipeline.params.nets.inception_filters import (
    ModuleRow,
    ReductionRow,
    check_factorized_kernel,
    reduction_rows,
    stage_limits,
    stage_rows,
)
from pipeline.params.nets.widths import scaled_width

InceptionStem = Literal["imagenet", "small", "v3"]
# CVIU Table 1 and Szegedy et al. name these two; every other net is named after its layers.
_NAMES: dict[tuple[str, tuple[int, ...]], str] = {
    ("v1_double3x3", (2, 5, 2)): "InceptionV1",
    ("v1", (2, 5, 2)): "GoogLeNet",
}


class Inception(nn.Module):
    """Stem, three stages of Inception modules with a halving of the grid between them, pooled head.

    The default module makes Inception-N, N = 4 + 3 x modules layers. Inception-v3 ("Rethinking", Table 1) is module
    and stem `v3` and stages `(3, 5, 2)`; the fifth factorised module is a copy of the fourth. torchvision's has four,
    and a 5x5 in the first three modules where Figure 5 has a 3x3; it is the same to the parameter otherwise.

    Args:
        stages: modules in each of the three stages; `(2, 5, 2)` is InceptionV1, `(10, 8, 10)` Inception-88.
            None: as many as the module type's table has rows.
        base: rows of the filter table that each stage takes; modules beyond them are copies of the last
            row taken ("the same architecture as the module underneath", CVIU section 4). None: all of them.
        module: `v1_double3x3` (the papers'), `v1` (GoogLeNet), `v2` (BN-Inception) or `v3` ("Rethinking");
            see `pipeline.params.nets.inception_filters`. The last two reduce the grid by stride-2 modules instead
            of max pools.
        factorized_kernel: n of v3's 1xn and nx1, odd.
        batch_norm: False gives every convolution a bias instead, as in the GoogLeNet of 2014.
        without: full names of branches that are left out, such as `stages.1.0.branch_pool`.
        stem: `imagenet` (two max pools), `small`, or `v3` ("Rethinking" Table 1, for 299 pixels): three 3x3 in the
            place of the 7x7, and no padding where the grid is halved, between the stages neither. The rows of that
            table behind the first pool do not fit each other; there it is the authors' later code: 1x1, 3x3, pool.
        num_classes, width, in_channels, dropout: as for `build_model`.

    Raises:
        ValueError: for stages, base, module, kernel, width or stem out of range, or a branch in `without` that
            the net does not have or cannot do without.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stages: Sequence[int] | None = None,
        base: Sequence[int] | None = None,
        module: str = "v1_double3x3",
        factorized_kernel: int = 7,
        batch_norm: bool = True,
        without: Sequence[str] = (),
        width: float = 1.0,
        stem: InceptionStem = "imagenet",
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_stem(stem, "v3")
        check_factorized_kernel(factorized_kernel)
        limits = stage_limits(module)
        rows = stage_rows(
            module, limits if stages is None else stages, limits if base is None else base, width
        )
        reductions = reduction_rows(module, width)
        self.num_classes, self.width, self.module, self.batch_norm = num_classes, width, module, batch_norm
        self._kernel, self._padded, self._without = factorized_kernel, stem != "v3", list(without)

        self.stem = _stem(stem, in_channels, width, batch_norm=batch_norm)
        channels = scaled_width(192, width)
        self.stages = nn.ModuleList()
        self.pools = nn.ModuleList()
        for idx, stage in enumerate(rows):
            modules = []
            for position, row in enumerate(stage):
                modules.append(self._build(f"stages.{idx}.{position}", channels, row))
                channels = modules[-1].out_channels
            self.stages.append(nn.Sequential(*modules))
            if idx == len(rows) - 1:
                break
            if not reductions:
                self.pools.append(_pool())
                continue
            reduction = self._build(f"pools.{idx}", channels, reductions[idx])
            self.pools.append(reduction)
            channels = reduction.out_channels
        if self._without:
            raise ValueError(f"expected branches of this net in without, got {', '.join(self._without)}")
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        x = self.stages[0](self.stem(x))
        x = self.stages[1](self.pools[0](x))
        x = self.stages[2](self.pools[1](x))
        logits: Tensor = self.head(x)
        return logits

    @property
    def depth(self) -> int:
        """Layers on the longest way through, as the papers' names count them; pools are none."""
        n_stem = sum(isinstance(each, nn.Conv2d) for each in self.stem.modules())
        return n_stem + sum(module.depth for _, module in self._named_modules()) + 1

    @property
    def title(self) -> str:
        """The name in CVIU Table 1: `InceptionV1`, `Inception-88`; other module types are put behind it."""
        counts = tuple(len(list(stage.children())) for stage in self.stages)
        layers = f"Inception-{self.depth}"
        other = layers if self.module == "v1_double3x3" else f"{layers} ({self.module})"
        return _NAMES.get((self.module, counts), other)

    def removable_branches(self) -> dict[str, InceptionModule]:
        """Full names of the branches that end in convolutions, each with its module; never a module's last one.

        The net can be built again without one of them, see `without`.
        """
        return {
            f"{place}.{name}": module
            for place, module in self._named_modules()
            if len(module.branch_names) > 1
            for name in module.branch_names
            if module.branch_ends(name)
        }

    def auxiliary_heads(self, batch_norm_hidden: bool = False) -> list[tuple[nn.Module, nn.Module]]:
        """Fresh auxiliary classifiers, each with the module whose output it reads.

        After the first module of stage 2 and before its last one (CVIU section 4); where the stage is so
        short that both are one place, one head. Of v3, one head after the stage's last module ("Rethinking" Figure 8).

        Args:
            batch_norm_hidden: batch norm after the heads' linear layer too ("Rethinking" section 10).
        """
        modules = [each for each in self.stages[1].children() if isinstance(each, InceptionModule)]
        taps = [modules[0], *([modules[-2]] if len(modules) > 2 else [])]
        if self.module == "v3":
            taps = modules[-1:]
        norms = {"batch_norm": self.batch_norm, "batch_norm_hidden": batch_norm_hidden}
        return [(tap, AuxiliaryHead(tap.out_channels, self.num_classes, self.width, **norms)) for tap in taps]

    def _build(self, place: str, in_channels: int, row: ModuleRow | ReductionRow) -> InceptionModule:
        """The module of a row, without the branches that `without` names; those names are ticked off."""
        module = build_module(
            in_channels, row, kernel=self._kernel, batch_norm=self.batch_norm, padded=self._padded
        )
        for name in module.branch_names:
            if f"{place}.{name}" in self._without:
                module.remove_branch(name)
                self._without.remove(f"{place}.{name}")
        return module

    def _named_modules(self) -> Iterator[tuple[str, InceptionModule]]:
        return ((name, each) for name, each in self.named_modules() if isinstance(each, InceptionModule))


def googlenet(
    num_classes: int,
    *,
    stages: Sequence[int] = (2, 5, 2),
    base: Sequence[int] = (2, 5, 2),
    dropout: float = 0.4,
    **options: Any,
) -> Inception:
    """GoogLeNet as published (Szegedy et al. 2015, Table 1): 5x5 convolutions, biases, no batch norm.

    Without its two local response normalisations: they have no weights, and deconvolution cannot be traced
    through them. `without`, `width`, `stem`, `in_channels` and errors as for `Inception`.
    """
    shape: dict[str, Any] = {"stages": stages, "base": base, "module": "v1", "factorized_kernel": 7}
    return Inception(num_classes, **shape, batch_norm=False, dropout=dropout, **options)


def bn_googlenet(
    num_classes: int, *, stages: Sequence[int] = (2, 4, 2), base: Sequence[int] = (2, 4, 2), **options: Any
) -> Inception:
    """BN-Inception (Ioffe & Szegedy 2015), CVIU's BN-GoogLeNet: modules `v2`, stride-2 modules 3c and 4e.

    `stages` leaves the two stride-2 modules out. `without`, `width`, `stem`, `in_channels`, `dropout` and errors
    as for `Inception`.
    """
    shape: dict[str, Any] = {"stages": stages, "base": base, "module": "v2", "factorized_kernel": 7}
    return Inception(num_classes, **shape, batch_norm=True, **options)


def _stem(stem: InceptionStem, in_channels: int, width: float, *, batch_norm: bool) -> nn.Sequential:
    c32, c64, c80, c192 = (scaled_width(channels, width) for channels in (32, 64, 80, 192))
    conv = partial(ConvBnRelu, batch_norm=batch_norm)
    if stem == "v3":  # 299 pixels become 149, 147, 147; 73, 73, 71; 35
        return nn.Sequential(
            conv(in_channels, c32, 3, stride=2, padded=False),
            conv(c32, c32, 3, padded=False),
            conv(c32, c64, 3),
            nn.MaxPool2d(3, 2),
            conv(c64, c80, 1),
            conv(c80, c192, 3, padded=False),
            nn.MaxPool2d(3, 2),
        )
    # In the order of drawing on which stored seeds depend: the first convolution comes last.
    reduction = conv(c64, c64, 1), conv(c64, c192, 3)
    if stem == "imagenet":
        return nn.Sequential(conv(in_channels, c64, 7, stride=2), _pool(), *reduction, _pool())
    return nn.Sequential(conv(in_channels, c64, 3), *reduction)


def _pool() -> nn.MaxPool2d:
    # ceil_mode pads below and right only, as Keras's "same" does at stride 2.
    return nn.MaxPool2d(3, 2, ceil_mode=True)
