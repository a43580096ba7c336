"""A model on disk: `safetensors` weights and a JSON description; no pickle is ever read.

The description names the architecture and its options; each layer is then given the shape of its stored
tensor, so a pruned model needs nothing but these two files.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.errors import InputError, first_line
from pipeline.files import write_atomically, write_json
from pipeline.models import build_model
from pipeline.models.classifier import (
    Classifier,
    blueprint_of,
    lay_out,
    load_state,
    set_blueprint,
    weight_layers,
)
from pipeline.models.own import FactoryError, check_origin

_FORMAT = 1


def save_model(model: nn.Module, path: Path | str, *, about: dict[str, Any] | None = None) -> None:
    """Write `path` with the endings `.safetensors` and `.json`, each whole or not at all.

    Args:
        model: a model from `build_model`, pruned or not, or a `Classifier` around one.
        path: where; an ending `.safetensors` or `.json` is dropped.
        about: JSON-able facts to keep beside it (metrics, the params it came from).

    No subnormal number is written.

    Raises:
        ValueError: if the model did not come from `build_model`.
    """
    weights, description = _both_files(path)
    blueprint = blueprint_of(model)
    spec: dict[str, Any] = {
        "format": _FORMAT,
        "architecture": blueprint.architecture,
        "num_classes": blueprint.num_classes,
        "options": blueprint.options,
        "channels": {name: list(layer.weight.shape[:2]) for name, layer in weight_layers(model).items()},
        "about": about or {},
    }
    if blueprint.kept_channels:
        spec["kept_channels"] = {
            f"{_prefix(model)}{name}": {"out": _ranges(outputs), "in": _ranges(inputs)}
            for name, (outputs, inputs) in blueprint.kept_channels.items()
        }
    if isinstance(model, Classifier):
        spec["classes"] = list(model.classes)
        spec["image_shape"] = list(model.image_shape)
        spec["normalization"] = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    state = {name: _without_subnormals(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}
    write_atomically(weights, save(state))
    write_json(description, spec)


def load_model(path: Path | str) -> nn.Module:
    """The model that `save_model` wrote, on the CPU, in evaluation mode.

    Raises:
        InputError: if a file is missing, damaged, of a later format, or the two do not fit each other; or if the user's
            function that made the model cannot be had, or has other code by now.
    """
    weights, description = _both_files(path)
    try:
        spec = json.loads(description.read_text(encoding="utf-8"))
        state = load_file(os.fspath(weights))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{weights}: expected a saved model ({type(error).__name__}: {error})") from None
    if not isinstance(spec, dict) or spec.get("format") != _FORMAT:
        found = spec.get("format") if isinstance(spec, dict) else spec
        raise InputError(f"{description}: expected format {_FORMAT}, got {found!r}")
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are overwritten; draw none of the caller's
            check_origin(spec["architecture"])
            model = build_model(spec["architecture"], spec["num_classes"], **spec["options"])
        if "classes" in spec:
            shape, classes = spec["image_shape"], spec["classes"]
            model = Classifier(model, image_shape=shape, classes=classes, **spec["normalization"])
        kept = {name.removeprefix(_prefix(model)): each for name, each in _kept_channels(spec).items()}
        net = model.net if isinstance(model, Classifier) else model
        set_blueprint(net, replace(blueprint_of(model), kept_channels=kept))
        _check_channels(spec["channels"], state)
        _fit_to_state(model, state)
        load_state(model, state)
        lay_out(model)
    except FactoryError as error:
        raise InputError(f"{description}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{weights}: does not fit {description.name} ({type(error).__name__}: {first_line(error)})"
        ) from None
    return model.eval()


def read_about(path: Path | str) -> dict[str, Any]:
    """The facts that `save_model` kept beside a model.

    Raises:
        InputError: if the description is missing or damaged.
    """
    about: dict[str, Any] = _described(path, lambda spec: spec["about"])
    return about


def read_kept_channels(path: Path | str) -> dict[str, tuple[list[int], list[int]]]:
    """For each layer of a net that was cut, the output and input channels of the whole net that are left.

    The whole net is the one that pruning started from. Before retraining a layer's weights are
    `whole[outputs][:, inputs]`. Empty for a net that was never cut.

    Raises:
        InputError: as `read_about`.
    """
    kept: dict[str, tuple[list[int], list[int]]] = _described(path, _kept_channels)
    return kept


def _described(path: Path | str, read: Callable[[dict[str, Any]], Any]) -> Any:
    _, description = _both_files(path)
    try:
        return read(json.loads(description.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{description}: expected a model's description ({error})") from None


def load_classifier(path: Path | str) -> Classifier:
    """`load_model` for a model that was saved with its normalisation, as every stage saves them.

    Raises:
        InputError: as `load_model`, or for a bare net.
    """
    model = load_model(path)
    if not isinstance(model, Classifier):
        raise InputError(f"{path}: expected a classifier with its normalisation, got a bare net")
    return model


def _without_subnormals(tensor: Tensor) -> Tensor:
    """Numbers below the smallest normal one as zeros: dead channels leave such, and processors crawl over them.

    Done here, as every model comes by; on the CPU all stages take them for zeros already (`configure_torch`).
    """
    if not tensor.is_floating_point():
        return tensor.clone()  # a layer that stands in two places has one counter, and the file two
    return tensor.masked_fill(tensor.abs() < torch.finfo(tensor.dtype).tiny, 0.0).contiguous()


def _prefix(model: nn.Module) -> str:
    """What a net's names begin with in the files."""
    return "net." if isinstance(model, Classifier) else ""


def _kept_channels(spec: dict[str, Any]) -> dict[str, tuple[list[int], list[int]]]:
    kept = spec.get("kept_channels", {})
    return {name: (_indices(each["out"]), _indices(each["in"])) for name, each in kept.items()}


def _ranges(rising: list[int]) -> str:
    """Rising numbers as `0-3,5,8-9`."""
    starts = [at for at in range(len(rising)) if at == 0 or rising[at] != rising[at - 1] + 1]
    runs = [(rising[start], rising[end - 1]) for start, end in pairwise([*starts, len(rising)])]
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def _indices(ranges: str) -> list[int]:
    """The numbers that `_ranges` wrote."""
    pairs = [run.partition("-") for run in ranges.split(",")]
    return [number for first, _, last in pairs for number in range(int(first), int(last or first) + 1)]


def _both_files(path: Path | str) -> tuple[Path, Path]:
    stem = Path(path)
    if stem.suffix in (".safetensors", ".json"):
        stem = stem.with_suffix("")
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def _check_channels(channels: dict[str, list[int]], state: dict[str, Tensor]) -> None:
    """Hold the described channels of every layer against its stored weight and bias."""
    for name, expected in channels.items():
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        if list(weight.shape[:2]) != expected or (bias is not None and len(bias) != expected[0]):
            raise ValueError(f"expected {name} to have channels {expected}, got {list(weight.shape[:2])}")


def _fit_to_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give every layer the shape of its stored tensors; the values come with `load_state`."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for key, parameter in list(module.named_parameters(recurse=False)):
            stored = state[prefix + key]
            if stored.shape != parameter.shape:
                fresh = nn.Parameter(torch.empty_like(stored), requires_grad=parameter.requires_grad)
                setattr(module, key, fresh)
        for key, buffer in list(module.named_buffers(recurse=False)):
            if prefix + key in state and state[prefix + key].shape != buffer.shape:
                setattr(module, key, torch.empty_like(state[prefix + key]))
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            if module.groups == module.in_channels > 1:
                module.groups = module.weight.shape[0]
            module.in_channels = module.weight.shape[0]
            module.out_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.modules.conv._ConvNd):
            if module.groups == module.in_channels and module.groups > 1:
                module.groups = module.weight.shape[0] * module.groups // module.out_channels  # depthwise
            module.out_channels = module.weight.shape[0]
            module.in_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            by_channel = [each for each in (module.weight, module.running_mean) if each is not None]
            module.num_features = len(by_channel[0]) if by_channel else module.num_features
