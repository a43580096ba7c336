"""Sections of params.yaml that describe a net: one for each family of `pipeline.models.build_model`.

Checked without torch, so that a wrong net is named before anything is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from pipeline.params.bounds import (
    Channels,
    Kernel,
    Modules,
    PixelDeviation,
    PixelMean,
    Pool,
    ShareBelowOne,
    Width,
)
from pipeline.params.nets.inception_filters import check_factorized_kernel, check_stages
from pipeline.params.nets.resnet_config import plan_modules
from pipeline.params.sections import Section, seen_by_dvc

Stem = Literal["imagenet", "small"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
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


class TrackedFile(Section):
    """A user's file and its SHA-256, so that other content is another setting; null: the check says what to write."""

    sha256: Sha256 | None


class SavedModel(TrackedFile):
    """What `pipeline.checkpoint.save_model` wrote at `path` (with or without the ending), pruned or not.

    `sha256`: of the `.safetensors` file.
    """

    architecture: Literal["saved"]
    path: Annotated[str, Field(min_length=1)]


class Normalization(Section):
    """What a net's images are normalised by, for each channel, on the 0-1 scale."""

    mean: Annotated[list[PixelMean], Field(min_length=1)]
    std: Annotated[list[PixelDeviation], Field(min_length=1)]


class OwnModel(TrackedFile):
    """A user's own net; null for what it does not need.

    `weights`: a file with a `state_dict`, of safetensors or of `torch.save`; null: as the net is built. `decision`: the
    linear layer whose outputs are the classes, by its name in the net, where it is not the last one found.
    `normalization` null: that of the training images. `classes`: those that the weights were trained for, in the order
    of the logits; null: as the data have them.
    """

    options: dict[Annotated[str, AfterValidator(seen_by_dvc)], JsonValue]
    weights: Annotated[str, Field(min_length=1)] | None
    decision: Annotated[str, Field(min_length=1)] | None
    normalization: Normalization | None
    classes: Annotated[list[str], Field(min_length=2)] | None

    @model_validator(mode="after")
    def _no_hash_without_weights(self) -> Self:
        if self.weights is None and self.sha256 is not None:
            raise ValueError(f"sha256: expected null, as weights is null (got {self.sha256!r})")
        return self

    @field_validator("options")
    @classmethod
    def _seen_by_dvc_at_any_depth(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        pending: list[JsonValue] = [options]
        while pending:
            node = pending.pop()
            if isinstance(node, dict):
                pending += [node[seen_by_dvc(key)] for key in node]
            elif isinstance(node, list):
                pending += node
        return options


class PythonModel(OwnModel):
    """What a function of the user's makes: `factory` names it, `options` are its keyword arguments.

    `factory_sha256`: of the source of its module and of what that imports, see `pipeline.imports.own_code_digest`.
    """

    architecture: Literal["python"]
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    factory_sha256: Sha256 | None


class TimmModel(OwnModel):
    """A net of timm's by its name there; `options` are further keyword arguments of `timm.create_model`."""

    architecture: Literal["timm"]
    name: Annotated[str, Field(min_length=1)]


Architecture = Annotated[
    FcModel
    | Vgg16Model
    | InceptionModel
    | GoogLeNetModel
    | ResNetModel
    | CompactModel
    | TorchvisionModel
    | SavedModel
    | PythonModel
    | TimmModel,
    Field(discriminator="architecture"),
]
# Nets whose stages Algorithm 2 can extend.
GROWABLE = (InceptionModel, GoogLeNetModel)


def is_trained(net: Section) -> bool:
    """Whether a net comes with weights that were trained elsewhere, as far as its section says."""
    if isinstance(net, TorchvisionModel):
        return net.pretrained
    return isinstance(net, SavedModel) or (isinstance(net, OwnModel) and net.weights is not None)


def is_looked_at(net: Section, epochs: int) -> bool:
    """Whether the base is scored as it came: where it stays so, and where a user's weights are trained on."""
    return not epochs or (is_trained(net) and not isinstance(net, TorchvisionModel))
