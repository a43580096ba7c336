"""A trained classifier: what it was built from, its normalisation, and its latent space."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

# Surgery on a Classifier gives a Classifier, on a bare net a bare net.
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Blueprint:
    """The call of `build_model` that a model came from; surgery and deep copies keep it.

    `kept_channels` is empty before surgery; after it, by each layer's name in the net, the output and the input
    channels that are left, by their places in the net that was built.
    """

    architecture: str
    num_classes: int
    options: dict[str, Any] = field(default_factory=dict)
    kept_channels: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)


def set_blueprint(model: nn.Module, blueprint: Blueprint) -> None:
    """Remember how `model` was built; a plain attribute, so that neither state nor surgery sees it."""
    model.blueprint = blueprint  # type: ignore[assignment]


def blueprint_of(model: nn.Module) -> Blueprint:
    """The blueprint of a model from `build_model`, or of the one inside a `Classifier`.

    Raises:
        ValueError: for any other model.
    """
    found = getattr(model.net if isinstance(model, Classifier) else model, "blueprint", None)
    if not isinstance(found, Blueprint):
        raise ValueError(f"expected a model from build_model, got {type(model).__name__}")
    return found


class Classifier(nn.Module):
    """A net behind its normalisation: images in [0, 1] in, logits out.

    Attacks and users work on images as they are stored; the normalisation travels with the weights.

    Args:
        net: a model from `build_model`.
        image_shape: (channels, height, width) of an image.
        mean: per channel, for pixels in [0, 1].
        std: per channel, positive.
        classes: the names of the classes, in the order of the logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        image_shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        self.net = net
        self.image_shape, self.classes = tuple(image_shape), tuple(classes)
        self.layout, self.is_foreign = memory_layout(net), is_foreign(net)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        # A constant channel has no spread to divide by.
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).clamp_min(1e-6).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, channels, height, width) in [0, 1] to logits (n, classes)."""
        normalized = (images - self.mean) / self.std
        laid_out = normalized.contiguous(memory_format=self.layout)
        if self.training and self.is_foreign:
            # Images of one channel are laid out in either way at once; after a random shift convolutions take their
            # strides for those of channels last, and a `view` of what they make fails.
            laid_out = laid_out.flatten(1).view(laid_out.shape)
        logits: Tensor = self.net(laid_out)
        return logits


def lay_out(model: Net) -> Net:
    """Lay out every filter as `memory_layout` says, in place.

    Every model here is laid out so, from `build_model` through surgery and back from disk, because the layout
    decides the last bits of a convolution.
    """
    return model.to(memory_format=memory_layout(model))


def memory_layout(model: nn.Module) -> torch.memory_format:
    """Channels last, with which small convolutions train 1.6 times as fast; not with strided 1x1 convolutions.

    Their backward pass writes past its buffers in that layout at channel counts such as surgery leaves
    (uxlfoundation/oneDNN#6035; tests/test_layout.py trains such a net).
    """
    if is_foreign(model):  # a forward pass of other people's may `view` its maps
        return torch.contiguous_format
    strided_1x1 = any(
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
        for module in model.modules()
    )
    return torch.contiguous_format if strided_1x1 else torch.channels_last


def _built_part(model: nn.Module) -> tuple[nn.Module, Blueprint] | None:
    """The net from `build_model` inside a model, which may be the model itself, and its blueprint."""
    for module in model.modules():
        if isinstance(found := getattr(module, "blueprint", None), Blueprint):
            return module, found
    return None


def is_foreign(model: nn.Module) -> bool:
    """Whether a user's function made the net, or timm."""
    built = _built_part(model)
    return built is not None and built[1].architecture.startswith(("python/", "timm/"))


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` for tensors from a file, which does not keep the versions that some modules ask for.

    The state is that of this model's own version: MNASNet refuses one that does not say so.

    Raises:
        RuntimeError: if names or shapes do not fit.
    """
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module's own mode is restored after it, whatever happens."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Inside the block no parameter requires gradients, so that what does depends on the images."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def module_path(model: nn.Module) -> Iterator[list[str]]:
    """Inside the block: the names of the modules that are being run, outermost first.

    A module that raised stays the last name, so that an error can be placed.
    """
    path = [""]

    def enter(name: str) -> Callable[..., None]:
        return lambda _module, _inputs: path.append(name)

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        path.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(enter(name)))
            hooks.enter_context(module.register_forward_hook(leave))
        yield path


def weight_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers by name, which costs, criteria and surgery are about."""
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Conv2d | nn.Linear)}


def n_inputs(layer: nn.Conv2d | nn.Linear) -> int:
    """How many channels or neurons a layer reads, all groups of a grouped convolution together."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def decision_layer(model: nn.Module) -> nn.Linear:
    """The layer that decides: the one that the blueprint names, or the last `nn.Linear`; its input is the latent space.

    Raises:
        ValueError: if the model has no linear layer.
    """
    layer = output_layer(model) if weight_layers(model) else None
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"expected a linear decision layer, {type(model).__name__} has none")
    return layer


def hidden_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers by name, but for the decision layer."""
    decision = decision_layer(model)
    return {name: layer for name, layer in weight_layers(model).items() if layer is not decision}


def output_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """The layer whose channels are the classes: the decision layer, or the last convolution where none is.

    Raises:
        ValueError: if the model has neither.
    """
    layers = list(weight_layers(model).values())
    if not layers:
        raise ValueError(f"expected a linear or convolutional output layer, {type(model).__name__} has none")
    linears = [module for module in layers if isinstance(module, nn.Linear)]
    if (built := _built_part(model)) and (decision := built[1].options.get("decision")):
        named = built[0].get_submodule(decision)
        assert isinstance(named, nn.Linear | nn.Conv2d)
        return named
    return linears[-1] if linears else layers[-1]


def latent_and_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass: latent features (n, d), the decision layer's input, and logits (n, classes).

    Where dropout stands right before the decision layer, the features are those before it: zeros that are
    drawn at random say nothing about a neuron's variance.
    """
    captured: list[Tensor] = []
    undropped: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(_dropout: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        undropped[id(output)] = (output, inputs[0])  # the output is kept alive: its id stays its own

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Dropout) and not module.inplace:
                hooks.enter_context(module.register_forward_hook(remember))
        decision = decision_layer(model)
        hooks.enter_context(decision.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0])))
        logits = model(images)
    latent = captured[-1]
    return undropped.get(id(latent), (latent, latent))[1], logits
