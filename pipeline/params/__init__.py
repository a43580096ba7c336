"""What params.yaml may hold: one frozen model per section, no defaults, unknown keys refused.

`python -m pipeline.params [FILE]` checks a file; `params.file` reads one.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.architectures import (
    GROWABLE,
    Architecture,
    CompactModel,
    FcModel,
    GoogLeNetModel,
    InceptionModel,
    ResNetModel,
    SavedModel,
    TorchvisionModel,
    Vgg16Model,
)
from pipeline.params.data import (
    AdienceData,
    ArraysData,
    BenchmarkData,
    Data,
    DigitsData,
    FolderData,
    ImageFolderData,
    ImageNetData,
    ImagesPerClass,
    LfwaData,
    ValidationRule,
)
from pipeline.params.pruning import (
    Competitor,
    FilterCompetitor,
    FixedCompetitor,
    LatentChoiceRule,
    OtsuChoice,
    Prune,
    Round,
    ScratchCompetitor,
    Select,
    SensitivityChoice,
    Shrink,
    Surgery,
    WeightCompetitor,
)
from pipeline.params.robustness import (
    Attack,
    FgsmAttack,
    FoolboxAttack,
    GaussianNoise,
    ImpulseNoise,
    Lineup,
    LocalVarianceNoise,
    NewtonFoolAttack,
    Noise,
    PoissonNoise,
    Robustness,
    Source,
    SpeckleNoise,
)
from pipeline.params.sections import Fraction, NonNegativeInt, OpenFraction, Section, Slug
from pipeline.params.torchvision_names import TORCHVISION_NAMES
from pipeline.params.training import (
    Auxiliary,
    Grow,
    Lda,
    Push,
    PushWeights,
    Runtime,
    Schedule,
    Train,
    Training,
)

__all__ = [
    "GROWABLE",
    "AdienceData",
    "Architecture",
    "ArraysData",
    "Attack",
    "Auxiliary",
    "BenchmarkData",
    "CompactModel",
    "Competitor",
    "Data",
    "DigitsData",
    "FcModel",
    "FgsmAttack",
    "FilterCompetitor",
    "FixedCompetitor",
    "FolderData",
    "FoolboxAttack",
    "GaussianNoise",
    "GoogLeNetModel",
    "Grow",
    "ImageFolderData",
    "ImageNetData",
    "ImagesPerClass",
    "ImpulseNoise",
    "InceptionModel",
    "LatentChoiceRule",
    "Lda",
    "LfwaData",
    "Lineup",
    "LocalVarianceNoise",
    "NewtonFoolAttack",
    "Noise",
    "OtsuChoice",
    "Params",
    "PoissonNoise",
    "Prune",
    "PublishedName",
    "Push",
    "PushWeights",
    "Report",
    "ResNetModel",
    "Robustness",
    "Round",
    "Runtime",
    "SavedModel",
    "Schedule",
    "ScratchCompetitor",
    "Section",
    "Select",
    "SensitivityChoice",
    "Shrink",
    "Source",
    "SpeckleNoise",
    "Surgery",
    "TorchvisionModel",
    "Train",
    "Training",
    "ValidationRule",
    "Vgg16Model",
    "WeightCompetitor",
]


PublishedName = Literal[
    "mnist",
    "cifar10",
    "cifar100",
    "imagenet",
    "imagenet_mobilenet_v2",
    "lfwa_gender",
    "lfwa_smile",
    "adience_age",
]


class Report(Section):
    """Figures, intervals, and what the report holds the results against.

    `published`: the experiment of the papers whose numbers stand beside ours; null for none. `notes`: what a reader
    has to know about this run, sentences that the reports carry as they are.
    `headline` names the noise and attacks of the summary and of the thesis's tables.
    """

    published: PublishedName | None
    notes: list[str]
    headline: Annotated[list[Slug], Field(min_length=1)]
    dpi: Annotated[int, Field(ge=50, le=600)]
    confidence: OpenFraction
    target_base_test_accuracy: Fraction
    target_params_fraction: OpenFraction


class Params(Section):
    """The whole of params.yaml."""

    name: Slug
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    runtime: Runtime
    data: Data
    model: Architecture
    train: Train
    grow: Grow
    lda: Lda
    push: Push
    variants: Annotated[dict[Slug, PushWeights], Field(min_length=1)]
    rounds: Annotated[list[Round], Field(min_length=1)]
    surgery: Surgery
    prune: Prune
    select: Select
    shrink: Shrink
    competitors: Annotated[dict[Slug, Competitor], Field(min_length=1)]
    sources: Annotated[dict[Slug, Source], Field(min_length=1)]
    noise: Annotated[dict[Slug, Noise], Field(min_length=1)]
    attacks: Annotated[dict[Slug, Attack], Field(min_length=1)]
    white_box: Annotated[dict[Slug, Attack], Field(min_length=1)]
    lineup: Lineup
    robustness: Robustness
    report: Report

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> Self:
        problems = [
            *self._repeats(),
            *self._taken_names(),
            *self._broken_links(),
            *self._unfit_nets(),
            *self._unknown_names(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _repeats(self) -> Iterator[str]:
        names = [entry.name for entry in self.rounds]
        everywhere: tuple[tuple[str, list[Any]], ...] = (
            ("seeds", self.seeds),
            ("prune.etas", self.prune.etas),
            ("prune.sizes", self.prune.sizes),
            ("rounds", names),
            ("lineup.competitors", self.lineup.competitors),
            ("report.headline", self.report.headline),
        )
        for key, values in everywhere:
            if len(set(values)) != len(values):
                kind = "different names" if key == "rounds" else "no repeats"
                yield f"{key}: expected {kind} (got {values})"
        for clash in sorted(set(self.noise) & set(self.attacks)):
            yield f"noise and attacks: expected different names (got {clash!r} in both)"

    def _taken_names(self) -> Iterator[str]:
        """Names that the tables give to something else."""
        if "ours" in self.competitors:
            yield "competitors: expected another name than this project's own (got 'ours')"
        if "main" in self.variants:
            yield "variants: expected another name than the main push's (got 'main')"
        for key, section in (("noise", self.noise), ("attacks", self.attacks)):
            if "clean" in section:
                yield f"{key}: expected another name than that of unperturbed images (got 'clean')"
        if len(self.sources) > 1:
            from_sources = {f"{attack}_from_{source}" for attack in self.attacks for source in self.sources}
            for clash in sorted(from_sources & set(self.noise)):
                yield f"noise: expected another name than that of an attack from a source (got {clash!r})"

    def _broken_links(self) -> Iterator[str]:
        previous = "push"
        for idx, entry in enumerate(self.rounds):
            if entry.previous != previous:
                yield f"rounds.{idx}.previous: expected {previous!r} (got {entry.previous!r})"
            previous = f"prune/{entry.name}"

    def _unknown_names(self) -> Iterator[str]:
        """Names in `report` and `lineup` that stand for nothing elsewhere."""
        conditions = [*self.noise, *self.attacks]
        for idx, name in enumerate(self.report.headline):
            if name not in conditions:
                yield f"report.headline.{idx}: expected one of {', '.join(conditions)} (got {name!r})"
        pruned = [n for n, c in self.competitors.items() if not isinstance(c, FixedCompetitor)]
        for idx, name in enumerate(self.lineup.competitors):
            if name not in pruned:
                yield f"lineup.competitors.{idx}: expected one of {', '.join(pruned)} (got {name!r})"
        n_sizes = len(self.shrink.sizes)
        if self.lineup.size >= n_sizes:
            yield f"lineup.size: expected less than {n_sizes}, the number of shrink.sizes (got {self.lineup.size})"

    def _unfit_nets(self) -> Iterator[str]:
        nets = {
            "model": self.model,
            **{f"sources.{name}.model": source.model for name, source in self.sources.items()},
            **{
                f"competitors.{name}.model": each.model
                for name, each in self.competitors.items()
                if isinstance(each, FixedCompetitor)
            },
        }
        for place, net in nets.items():
            if isinstance(net, TorchvisionModel) and net.name not in TORCHVISION_NAMES:
                alike = get_close_matches(net.name, sorted(TORCHVISION_NAMES), cutoff=0) or ["resnet18"]
                yield (
                    f"{place}.name: expected a classifier of torchvision.models, such as {', '.join(alike)} "
                    f"(got {net.name!r})"
                )
        if self.grow.max_modules > 0 and not isinstance(self.model, GROWABLE):
            yield (
                f"grow.max_modules: expected 0, as model.architecture {self.model.architecture!r} has no stages "
                f"to extend (got {self.grow.max_modules})"
            )
