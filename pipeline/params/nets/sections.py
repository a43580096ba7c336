"""Sections of params.yaml that describe a net: one for each family of `pipeline.models.build_model`.

Checked without torch, so that a wrong net is named before anything is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.bounds import Channels, Kernel, Modules, Pool, ShareBelowOne, Width
from pipeline.params.nets.inception_filters import check_factorized_kernel, check_stages
from pipeline.params.nets.resnet_config import plan_modules
from pipeline.params.sections import Section

Stem = Literal["imagenet", "small"]
Dropout = ShareBelowOne
ThreeStages = Annotated[list[Modules], Field(min_length=3, max_length=3)]


class FcModel(Section):
    """The fully connected net of the MNIST experiment, see `pipeline.models.fc`."""

    architecture: Literal["fc"]
    hidden: Annotated[list[Channels], Field(min_length=1)]


class Vgg16Model(Section):
    """VGG-16, see `pipeline.models.vgg`."""

    architecture: Literal["vgg16"]
    batch_norm: bool
    hidden: Annotated[list[Channels], Field(min_length=1)]
    pool: Pool
    width: Width
    stem: Stem
    dropout: Dropout


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors inside the block, which end in `, got VALUE`, become lines about this key."""
    try:
        yield
    except ValueError as error:
        expected, _, found = str(error).rpartition(", got ")
        raise ValueError(f"{key}: {expected} (got {found})") from None


class InceptionModel(Section):
    """Inception-N or v3, see `pipeline.models.inception`; `factorized_kernel` is the n of v3's 1xn and nx1."""

    architecture: Literal["inception"]
    module: Literal["v1", "v1_double3x3", "v2", "v3"]
    stages: ThreeStages
    base: ThreeStages
    width: Width
    stem: Literal["imagenet", "small", "v3"]
    factorized_kernel: Kernel
    dropout: Dropout

    @model_validator(mode="after")
    def _stages_are_in_the_table(self) -> Self:
        with _named("base"):
            check_stages(self.module, self.stages, self.base)
        with _named("factorized_kernel"):
            check_factorized_kernel(self.factorized_kernel)
        return self


class GoogLeNetModel(Section):
    """The original GoogLeNet (5x5, no batch norm), or BN-GoogLeNet, of any stages and width."""

    architecture: Literal["googlenet", "bn_googlenet"]
    stages: ThreeStages
    base: ThreeStages
    width: Width
    stem: Stem
    dropout: Dropout

    @model_validator(mode="after")
    def _stages_are_in_the_table(self) -> Self:
        with _named("base"):
            check_stages("v1" if self.architecture == "googlenet" else "v2", self.stages, self.base)
        return self


class ResNetModel(Section):
    """A residual net by configuration string or published name, see `pipeline.models.resnet`."""

    architecture: Literal["resnet"]
    config: str
    width: Width
    stem: Stem
    dropout: Dropout

    @model_validator(mode="after")
    def _config_can_be_built(self) -> Self:
        try:
            plan_modules(self.config, self.width)
        except ValueError as error:
            raise ValueError(f"config: cannot be built: {error} (got {self.config!r})") from None
        return self


class CompactModel(Section):
    """A fixed compact net: MobileNet (v1), MobileNetV2 or SqueezeNet."""

    architecture: Literal["mobilenet", "mobilenet_v2", "squeezenet"]
    width: Width
    stem: Stem
    dropout: Dropout


class TorchvisionModel(Section):
    """A classifier of torchvision by its name there; `pretrained` starts from torchvision's weights."""

    architecture: Literal["torchvision"]
    name: str
    pretrained: bool


class SavedModel(Section):
    """A model of the user's own: what `pipeline.checkpoint.save_model` wrote at `path` (with or without the ending).

    `sha256`: of the `.safetensors` file, so that another model there is another setting.
    """

    architecture: Literal["saved"]
    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Architecture = Annotated[
    FcModel
    | Vgg16Model
    | InceptionModel
    | GoogLeNetModel
    | ResNetModel
    | CompactModel
    | TorchvisionModel
    | SavedModel,
    Field(discriminator="architecture"),
]
# Nets whose stages Algorithm 2 can extend.
GROWABLE = (InceptionModel, GoogLeNetModel)
