"""`python -m pipeline.net_check [FILE]`: whether the net that params name can be pruned as they say, in seconds.

The net is built, traced by every utility that the params name, and cut to half, on random images of the right shape;
no data are read. What it cannot do is said in one line; so is what will be left whole, and why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.files import read_json, write_json
from pipeline.jobs.code import code_digest
from pipeline.jobs.worker import limit_threads
from pipeline.params.file import PARAMS_FILE, read_params
from pipeline.params.nets.sections import GROWABLE, OwnModel, TorchvisionModel

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.deconv import Utility
    from pipeline.images.expected import Shape
    from pipeline.models.classifier import Classifier
    from pipeline.params.nets.sections import Architecture
    from pipeline.params.params import Params
    from pipeline.params.pruning import SizeUnit

# What was found for the last few settings, so that it is found once.
_FOUND, _REMEMBERED = Path(".jobs/net_check.json"), 16
_SECTIONS = {"data", "model", "grow", "surgery", "prune", "after_the_fact", "compare", "ablate"}
_LIBRARIES = ("torch", "torchvision", "torch-pruning")
_ROOT = Path(__file__).resolve().parents[1]
# Where the data do not say it yet: what can be cut of a net that is built for them does not go by it.
_SOME_CLASSES = 10
# Names of layers that a line gives before it only counts.
_NAMED = 3


def check_net(params: Params) -> str:
    """What is left whole of the net that params name, in one line; nothing where every layer can be pruned.

    Raises:
        InputError: with the key of the params, and the module where there is one, if it cannot be pruned so.
    """
    from pipeline.images.expected import expected_images

    image_shape, n_classes = expected_images(params.data) or (None, None)
    if image_shape is None or (n_classes is None and isinstance(params.model, OwnModel)):
        return "data: not there yet, so that the net is not checked"
    try:
        return _check(params, image_shape, n_classes or _SOME_CLASSES)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a user's net raises where it is traced, cut, copied or exported
        if not isinstance(params.model, OwnModel):
            raise
        from pipeline.own_net import where

        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"model: expected a net that can be traced and cut, it raised {reason}{where(error)}"
        ) from None


def _check(params: Params, image_shape: Shape, n_classes: int) -> str:
    import torch

    from pipeline.cost import count_params
    from pipeline.models.classifier import decision_layer
    from pipeline.own_net import check_file, check_own_net, check_training, untraced
    from pipeline.prune import prune_model
    from pipeline.prune.rounds import limits
    from pipeline.training.classifiers import check_normalization

    torch.manual_seed(0)
    if isinstance(params.model, OwnModel):
        if params.model.normalization is not None:
            check_normalization(params.model.normalization, image_shape[0], "model")
        if (known := params.model.classes) and len(set(known)) != n_classes:
            raise InputError(
                f"model.classes: expected the {n_classes} classes of the data, in the order of the net's logits (got "
                f"{len(set(known))})"
            )
    model = _build(params.model, image_shape, n_classes)
    _check_patterns(params, model)
    images = torch.rand(2, *image_shape)
    with torch.no_grad():
        if not model(images).isfinite().all():
            raise InputError("model: expected finite logits of random images (got NaN, or infinite ones)")
    if isinstance(params.model, OwnModel):
        check_own_net(model, images)
    readings = {reading: place for place, reading in reversed([*_readings(params)])}
    traced = [_trace(model, images, reading, place) for reading, place in readings.items()]
    n_latent = decision_layer(model).in_features // 2 or 1
    try:
        half, rows = prune_model(
            model,
            traced[0],
            0.5,
            images[:1],
            widths="uniform",
            latent_kept=n_latent,
            **limits(params.surgery),
        )
    except ValueError as error:
        raise InputError(f"model: {error}") from None
    if isinstance(params.model, OwnModel):
        check_training(half, images)
        check_file(half, images)
        _check_formats(params, half, images)
    whole: dict[str, list[str]] = {}
    for row in rows:
        if row.left_whole:
            whole.setdefault(row.left_whole, []).append(row.name.removeprefix("net."))
    if lost := untraced(model, traced[0]):
        whole["their own forward pass is not run"] = [name.removeprefix("net.") for name in lost]
    said = "; ".join(_describe(reason, names) for reason, names in whole.items())
    if count_params(half) == count_params(model):
        least = f"all layers are too narrow for min_channels {params.surgery.min_channels}, round_to "
        raise InputError(
            f"model: expected a net with channels to prune, got none: {said or least + str(params.surgery.round_to)}"
        )
    _check_sizes(params, model, image_shape, n_classes)
    return f"left whole: {said}" if said else ""


def _check_formats(params: Params, half: Classifier, images: Tensor) -> None:
    """Refuse a net that cannot be written as the params say, which shows at the end otherwise."""
    from pipeline.export import onnx_bytes, program_bytes

    for kind, bytes_of in (("onnx", onnx_bytes), ("pt2", program_bytes)):
        if kind in params.select.formats:
            try:
                bytes_of(half, images)
            except InputError as error:
                raise InputError(f"select.formats: {error}") from None


def _describe(reason: str, names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more} ({reason})"


def _build(section: Architecture, image_shape: Shape, n_classes: int) -> Classifier:
    """The net behind some normalisation, of the files that it starts from only those that say what it is."""
    from pipeline.models.classifier import Classifier
    from pipeline.training.classifiers import build_net

    if isinstance(section, TorchvisionModel):
        section = section.model_copy(update={"pretrained": False})
    try:
        net = build_net(section, n_classes, image_shape, wanted_for="model")
    except InputError as error:  # the file under its own name is `main`'s to say
        raise InputError(str(error).replace(f"{PARAMS_FILE}: ", "")) from None
    if isinstance(net, Classifier):
        net = net.net
    flat = [0.5] * image_shape[0], [0.25] * image_shape[0]
    classes = tuple(str(number) for number in range(n_classes))
    return Classifier(net, image_shape=image_shape, mean=flat[0], std=flat[1], classes=classes).eval()


def _readings(params: Params) -> Iterator[tuple[str, str]]:
    """Every utility that is going to be traced, after the key that names it."""
    yield "surgery.utility", params.surgery.utility
    for name, variant in (params.compare.variants if params.compare else {}).items():
        yield f"compare.variants.{name}.utility", variant.utility
    for score in params.ablate.scores if params.ablate else ():
        if score == "lda_after_the_fact":
            yield "ablate.scores", "deconvolution"
        elif score in ("deconvolution", "saliency"):
            yield "ablate.scores", score


def _trace(model: Classifier, images: Tensor, reading: str, place: str) -> dict[str, Utility]:
    import torch

    from pipeline.deconv import trace_utility
    from pipeline.models.classifier import decision_layer
    from pipeline.saliency import trace_saliency

    try:
        kept = torch.ones(decision_layer(model.net).in_features, dtype=torch.bool)
    except ValueError as error:
        raise InputError(f"model: {error}") from None
    try:
        if reading == "deconvolution":
            return trace_utility(model, images, kept)
        labels = torch.arange(len(images))
        return trace_saliency(
            model, images, labels, kept, ridge=1.0, samples_per_class=1, seed=0, of="response"
        )
    except ValueError as error:
        reason = str(error).replace(" in net.", " in ")
        raise InputError(f"{place}: {reason} (got {reading}; take saliency)") from None
    except RuntimeError as error:  # autograd's own
        reason = str(error).partition(". ")[0].splitlines()[0]
        raise InputError(f"model: expected a net that {reading} can be traced through ({reason})") from None


def _check_patterns(params: Params, model: Classifier) -> None:
    from pipeline.prune.whole import kept_layers

    for idx, pattern in enumerate(params.surgery.keep):
        if not kept_layers(model, [pattern]):
            raise InputError(
                f"surgery.keep.{idx}: expected a pattern over the names of modules with layers, such as "
                f"{next(iter(kept_layers(model, ['*']))).removeprefix('net.')!r} (got {pattern!r})"
            )


def _check_sizes(params: Params, model: Classifier, image_shape: Shape, n_classes: int) -> None:
    """Sizes under what is left when every layer keeps as little as it may, as a share of the net.

    What each module that growing adds takes and leaves is a constant: the smallest share of all nets that may be grown
    is that of the base, or of one with all new modules in one stage.
    """
    from pipeline.cost import measure_cost
    from pipeline.prune.rounds import limits
    from pipeline.prune.target_size import smallest_cost

    asked = [
        (f"{section}.sizes.{unit}", unit, min(fractions))
        for section in ("prune", "after_the_fact", "compare", "ablate")
        for unit, fractions in getattr(getattr(params, section), "sizes", {}).items()
        if fractions and unit != "milliseconds"
    ]
    if not asked:
        return
    example = next(model.parameters()).new_zeros(1, *image_shape)
    least: dict[SizeUnit, float] = {}
    for net in [model, *_grown(params, image_shape, n_classes)]:
        cost, left = measure_cost(net, image_shape), smallest_cost(net, example, **limits(params.surgery))
        shares: dict[SizeUnit, float] = {
            "params": left["params"] / cost.params,
            "flops": left["flops"] / cost.flops,
        }
        least = {unit: min(least.get(unit, 1.0), share) for unit, share in shares.items()}
    for key, unit, fraction in asked:
        if fraction < least[unit]:
            raise InputError(
                f"{key}: expected sizes that pruning can reach, at least {least[unit]:.4g} of this net (got {fraction})"
            )


def _grown(params: Params, image_shape: Shape, n_classes: int) -> Iterator[Classifier]:
    if params.grow is None or not isinstance(params.model, GROWABLE):
        return
    for stage in range(len(params.model.stages)):
        stages = list(params.model.stages)
        stages[stage] += params.grow.max_modules
        yield _build(params.model.model_copy(update={"stages": stages}), image_shape, n_classes)


def _key(params: Params) -> str:
    """A hash of all that the answer depends on."""
    parts: list[Any] = [params.model_dump(mode="json", include=_SECTIONS, by_alias=True)]
    parts += [code_digest(__spec__.name, _ROOT), *(version(library) for library in _LIBRARIES)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def main() -> None:
    """Check the net of a params file; prints what is wrong and exits with 1, or what is left whole."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.net_check", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=PARAMS_FILE)
    file = parser.parse_args().file
    warnings.simplefilter("ignore")  # of a net's own code; the stages show them
    try:
        params = read_params(file)
        limit_threads(params.numerics.threads)
        found: dict[str, str] = read_json(_FOUND) if _FOUND.exists() else {}
        if (key := _key(params)) not in found:
            said = check_net(params)
            found = dict([*found.items(), (key, said)][-_REMEMBERED:])
            _FOUND.parent.mkdir(exist_ok=True)
            write_json(_FOUND, found)
    except InputError as error:
        lines = str(error).splitlines()
        sys.stderr.writelines(
            f"{line}\n" if line.startswith(f"{file}: ") else f"{file}: {line}\n" for line in lines
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if found[key]:
        sys.stdout.write(f"{file}: {found[key]}\n")


if __name__ == "__main__":
    main()
