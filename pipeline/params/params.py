"""The whole of params.yaml, and what its sections have to say to each other."""

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.bounds import Dpi, Fraction, OpenFraction, Seed
from pipeline.params.data import Data
from pipeline.params.fitting import problems_with_images
from pipeline.params.installed_names import torchvision_classifiers
from pipeline.params.machine import Latency, Numerics, Runtime
from pipeline.params.nets.sections import GROWABLE, Architecture, PythonModel, TorchvisionModel, is_trained
from pipeline.params.perturbations import Attack, Noise
from pipeline.params.pruning import COMPETITORS, Ablate, AfterTheFact, Compare, Prune, Select, Surgery
from pipeline.params.robustness import Lineup, Robustness, Source
from pipeline.params.sections import Section, Slug
from pipeline.params.training import Grow, Lda, Push, Train

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
    `max_untouched`: of the images that an attack had to move, the share that it had no hold on above which no claim is
    made. `headline` names the noise and attacks of the summary and of the thesis's tables. `equivalence_margin`: a
    difference that is surely within it, either way, is called none.
    """

    published: PublishedName | None
    notes: list[str]
    headline: Annotated[list[Slug], Field(min_length=1)]
    dpi: Dpi
    confidence: OpenFraction
    equivalence_margin: OpenFraction
    max_untouched: Fraction
    target_original_test_accuracy: Fraction
    target_params_fraction: OpenFraction


class Params(Section):
    """The whole of params.yaml. A section that is null, or empty, is not run."""

    name: Slug
    seeds: Annotated[list[Seed], Field(min_length=1)]
    data: Data
    model: Architecture
    train: Train
    grow: Grow | None
    lda: Lda
    push: Push
    surgery: Surgery
    prune: Prune
    after_the_fact: AfterTheFact | None
    select: Select
    compare: Compare | None
    ablate: Ablate | None
    sources: dict[Slug, Source]
    noise_seed: Seed
    noise: dict[Slug, Noise]
    attacks: dict[Slug, Attack]
    white_box: list[Slug]
    lineup: Lineup | None
    robustness: Robustness
    latency: Latency | None
    report: Report
    numerics: Numerics
    runtime: Runtime

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> Self:
        problems = [
            *problems_with_images(self.data, self),
            *self._repeats(),
            *self._taken_names(),
            *self._unfit_nets(),
            *self._unknown_names(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _repeats(self) -> Iterator[str]:
        everywhere: tuple[tuple[str, Sequence[object]], ...] = (
            ("seeds", self.seeds),
            ("prune.etas", self.prune.etas),
            ("after_the_fact.etas", self.after_the_fact.etas if self.after_the_fact else ()),
            *(
                (f"{section}.sizes.{unit}", fractions)
                for section in ("prune", "after_the_fact", "ablate")
                for unit, fractions in getattr(getattr(self, section), "sizes", {}).items()
            ),
            *((f"compare.{key}", getattr(self.compare, key, ())) for key in ("competitors", "rate_factors")),
            *((f"ablate.{key}", getattr(self.ablate, key, ())) for key in ("scores", "widths")),
            ("lineup.competitors", self.lineup.competitors if self.lineup else ()),
            ("white_box", self.white_box),
            ("latency.batches", self.latency.batches if self.latency else ()),
            ("report.headline", self.report.headline),
        )
        for key, values in everywhere:
            if len(set(values)) != len(values):
                yield f"{key}: expected no repeats (got {values})"
        for clash in sorted(set(self.noise) & set(self.attacks)):
            yield f"noise and attacks: expected different names (got {clash!r} in both)"

    def _taken_names(self) -> Iterator[str]:
        """Names that the tables give to something else."""
        for name in ("main", "control"):
            if name in self.push.variants:
                yield f"push.variants: expected another name than that of a push of the main flow (got {name!r})"
        for name in self.compare.fixed_nets if self.compare else ():
            if name in COMPETITORS or name.startswith("ours"):
                yield f"compare.fixed_nets: expected another name than a method's (got {name!r})"
        for key, section in (("noise", self.noise), ("attacks", self.attacks)):
            if "clean" in section:
                yield f"{key}: expected another name than that of unperturbed images (got 'clean')"
        if len(self.sources) > 1:
            from_sources = {f"{attack}_from_{source}" for attack in self.attacks for source in self.sources}
            for clash in sorted(from_sources & set(self.noise)):
                yield f"noise: expected another name than that of an attack from a source (got {clash!r})"

    def _unknown_names(self) -> Iterator[str]:
        """Names that stand for nothing elsewhere."""
        conditions = [*self.noise, *self.attacks]
        for idx, name in enumerate(self.report.headline):
            if name not in conditions:
                yield f"report.headline.{idx}: {_one_of(conditions)} (got {name!r})"
        for idx, name in enumerate(self.white_box):
            if name not in self.attacks:
                yield f"white_box.{idx}: {_one_of(self.attacks)} (got {name!r})"
        if self.ablate is not None and self.ablate.noise not in (None, *self.noise):
            yield f"ablate.noise: {_one_of(self.noise)} (got {self.ablate.noise!r})"
        if self.attacks and not self.sources:
            yield "sources: expected a net that attacks are crafted on (got none)"
        if self.lineup is None:
            return
        if self.compare is None:
            yield "lineup: expected null, as compare is null (got a section)"
            return
        compared = self.compare.competitors
        for idx, competitor in enumerate(self.lineup.competitors):
            if competitor not in compared:
                yield f"lineup.competitors.{idx}: {_one_of(compared)} (got {competitor!r})"
        if self.lineup.fraction not in self.compare.fractions:
            sizes = ", ".join(map(str, self.compare.fractions))
            yield f"lineup.fraction: expected one of compare.sizes, {sizes} (got {self.lineup.fraction})"

    @property
    def nets(self) -> dict[str, Architecture]:
        """Every section that describes a net, by its place."""
        fixed = self.compare.fixed_nets if self.compare else {}
        return {
            "model": self.model,
            **{f"sources.{name}.model": source.model for name, source in self.sources.items()},
            **{f"compare.fixed_nets.{name}.model": each.model for name, each in fixed.items()},
        }

    def _unfit_nets(self) -> Iterator[str]:
        # What a user's function gives may be trained: what it scores says so.
        if not self.train.training.epochs and not (
            is_trained(self.model) or isinstance(self.model, PythonModel)
        ):
            yield "train.training.epochs: expected at least 1, as model comes without trained weights (got 0)"
        for place, net in self.nets.items():
            if isinstance(net, TorchvisionModel) and net.name not in (known := torchvision_classifiers()):
                alike = get_close_matches(net.name, sorted(known), cutoff=0) or ["resnet18"]
                yield (
                    f"{place}.name: expected a classifier of torchvision.models, such as {', '.join(alike)} "
                    f"(got {net.name!r})"
                )
        if self.grow is not None and not isinstance(self.model, GROWABLE):
            yield (
                f"grow: expected null, as model.architecture {self.model.architecture!r} has no stages to extend "
                "(got a section)"
            )


def _one_of(names: Collection[str]) -> str:
    return f"expected one of {', '.join(names)}" if names else "expected nothing, as there is nothing to name"
