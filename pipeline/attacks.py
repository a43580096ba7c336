"""Adversarial attacks as foolbox attack classes, and crafting on a source model (thesis 5.2.2)."""

import warnings
from collections.abc import Callable
from typing import Any

import foolbox
import torch
from eagerpy import PyTorchTensor, astensor, astensor_
from foolbox import Misclassification, Model, PyTorchModel
from foolbox.attacks import (
    BoundaryAttack,
    EADAttack,
    HopSkipJumpAttack,
    L2CarliniWagnerAttack,
    LinearSearchBlendedUniformNoiseAttack,
    LinfFastGradientAttack,
)
from foolbox.attacks.base import (
    MinimizationAttack,
    get_criterion,
    raise_if_kwargs,
    verify_input_bounds,
)
from foolbox.attacks.gradient_descent_base import BaseGradientDescent
from foolbox.distances import l2
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.machine.float64 import float64
from pipeline.machine.memory import in_fitting_batches, is_out_of_memory
from pipeline.models.classifier import frozen_parameters
from pipeline.params.foolbox_attacks import Number, needs_of
from pipeline.params.perturbations import Attack, FgsmAttack, FoolboxAttack, NewtonFoolAttack
from pipeline.progress import tell

# The share of a batch that is still to be moved at which the others leave it. Not image by image: oneDNN compiles its
# kernels for every batch size anew, which takes as long as steps of a small net.
_LEAVE_AT = 0.75
# What attacks raise that cannot go on; foolbox has no exception of its own.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Fgsm(LinfFastGradientAttack):  # type: ignore[misc]
    """Fast gradient sign method (Goodfellow et al. 2015): one step of epsilon along the loss gradient's sign.

    foolbox's own attack without its random start, under the name that the thesis uses.
    """

    def __init__(self) -> None:
        super().__init__(random_start=False)


class NewtonFool(MinimizationAttack):  # type: ignore[misc]
    """Newton Fool (Jang et al. 2017): Newton steps that lower the probability of the predicted class.

    With p the softmax probability of the class predicted at the start, g its gradient at x and C classes:

        delta = min(eta |x_0|_2 |g|_2, p - 1/C),    x <- x - delta g / |g|_2^2

    clipped to the bounds after every step. Written with the margin m = z_y - logsumexp_{j != y} z_j: since
    p = sigmoid(m), g = p (1 - p) grad m has the direction of grad m, which does not vanish when p rounds to
    1. An image leaves the batch once its prediction has changed, and stays as it is where grad m is zero. True
    labels have no say: an image that is misclassified from the start is led away from its wrong class like any
    other, and may end up right.

    Args:
        steps: Newton steps at most.
        eta: the small step constant.
    """

    distance = l2

    def __init__(self, *, steps: int = 100, eta: float = 0.01) -> None:
        if steps < 1 or eta <= 0:
            raise ValueError(f"expected steps >= 1 and eta > 0, got steps={steps}, eta={eta}")
        self.steps, self.eta = steps, eta

    def run(
        self, model: Model, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any
    ) -> Any:
        """Perturbed inputs, always finite and within the model's bounds; the caller verifies success by its labels.

        Raises:
            ValueError: for another criterion than misclassification, labels of the wrong shape, or tensors
                that are not torch's.
        """
        raise_if_kwargs(kwargs)
        inputs_ep, restore_type = astensor_(inputs)
        verify_input_bounds(inputs_ep, model)
        if not isinstance(inputs_ep, PyTorchTensor):
            raise ValueError(f"expected torch tensors, got {type(inputs).__name__}")
        checked = get_criterion(criterion)
        if not isinstance(checked, Misclassification):
            raise ValueError(f"expected the misclassification criterion, got {checked!r}")
        x, labels = inputs_ep.raw.detach(), checked.labels.raw
        if labels.shape != (len(x),):
            raise ValueError(f"expected labels to have shape ({len(x)},), got {tuple(labels.shape)}")
        return restore_type(astensor_(self._attack(model, x))[0])

    def _attack(self, model: Model, inputs: Tensor) -> Tensor:
        low, high = model.bounds
        with torch.no_grad():
            predicted = model(inputs).argmax(1)
        found, x = inputs.clone(), inputs
        place = torch.arange(len(x), device=x.device)  # of the images of the batch among all
        x_norm = x.flatten(1).norm(dim=1)
        pending = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            moved, alive = self._step(model, x, predicted, x_norm)
            pending &= alive
            x = torch.where(_per_image(pending), moved.clamp_(low, high), x)
            n_pending = int(pending.sum())
            if n_pending <= _LEAVE_AT * len(x):
                found[place] = x
                place, x, predicted, x_norm = (each[pending] for each in (place, x, predicted, x_norm))
                pending = pending[pending]
            if n_pending == 0:
                break
        found[place] = x
        return found

    def _step(self, model: Model, x: Tensor, predicted: Tensor, x_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Images after one step, not yet clipped, and a mask of those that still had one to take."""
        x = x.detach().requires_grad_(True)
        logits = model(x)
        n_classes, of_class = logits.shape[1], predicted.unsqueeze(1)
        margin = logits.gather(1, of_class)[:, 0] - logits.scatter(1, of_class, -torch.inf).logsumexp(1)
        # With respect to the images alone: the weights' gradients would be half of the work.
        (margin_grad,) = torch.autograd.grad(margin.sum(), x)
        x, logits, margin = x.detach(), logits.detach(), float64(margin.detach())
        grad_norm = margin_grad.flatten(1).norm(dim=1)
        alive = (logits.argmax(1) == predicted) & (grad_norm > 0) & grad_norm.isfinite()
        # delta / |g|_2 = min(eta |x_0|_2, (p - 1/C) / |g|_2), and |g|_2 = p (1 - p) |grad m|_2.
        p, q = margin.sigmoid(), (-margin).sigmoid()
        newton_length = (p - 1 / n_classes).clamp_min(0) / (p * q * float64(grad_norm))
        length = torch.minimum(self.eta * float64(x_norm), newton_length).to(x)
        direction = margin_grad / _per_image(grad_norm.clamp_min(torch.finfo(x.dtype).tiny))
        return x - _per_image(length) * direction, alive


def _per_image(values: Tensor) -> Tensor:
    """Values (n,) so that they broadcast over images (n, channels, height, width)."""
    return values.view(-1, 1, 1, 1)


def craft(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """Adversarial images in [0, 1], (n, channels, height, width), crafted on `model`.

    Whether an image fools anyone is not asked of foolbox: predict it again. Random starts draw from torch's
    global generator: seed it first.

    Args:
        attack: method and strength; epsilons on the 0-255 scale.
        model: the model to attack, images in [0, 1] to logits.
        images: (n, channels, height, width) float in [0, 1].
        labels: (n,) the true labels; Newton Fool follows the model's own predictions.
        batch_size: images at a time; halved when memory runs out.

    Raises:
        InputError: for options that an attack does not take.
    """
    method, epsilon = build_attack(attack)
    model.eval()
    wrapped = PyTorchModel(model, bounds=(0, 1), device=images.device)

    def attack_all(size: int) -> Tensor:
        crafted = []
        parts = list(zip(torch.split(images, size), torch.split(labels, size), strict=True))
        for idx, (batch, batch_labels) in enumerate(parts):
            crafted.append(_attack_batch(attack, method, wrapped, batch, batch_labels, epsilon))
            tell(f"image {min((idx + 1) * size, len(images))} of {len(images)}")
        return torch.cat(crafted)

    # The weights' gradients, which foolbox would have computed with those of the images, are a third of the work.
    with frozen_parameters(model):
        return in_fitting_batches(attack_all, batch_size)


def _attack_batch(
    attack: Attack, method: Any, model: Model, images: Tensor, labels: Tensor, epsilon: float | None
) -> Tensor:
    run = _run_from_starts if isinstance(method, BoundaryAttack | HopSkipJumpAttack) else _run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foolbox's: too few starts, functions that will be renamed
            clipped = run(method, model, images, labels, epsilon)
    except _FAILURES as error:
        if not isinstance(attack, FoolboxAttack) or (
            isinstance(error, RuntimeError) and is_out_of_memory(error)
        ):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{attack.attack}: cannot run as the params say: {reason}") from None
    # A minimisation attack that finds nothing may return what is no image: the original stays.
    usable = clipped.flatten(1).isfinite().all(1)
    attacked: Tensor = torch.where(_per_image(usable), clipped, images).clamp(0, 1).detach()
    return attacked


def _run(method: Any, model: Model, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
    found, clipped, _ = method(model, images, Misclassification(labels), epsilons=epsilon)
    if isinstance(method, L2CarliniWagnerAttack | EADAttack):  # which make black what they cannot fool
        black = (found == 0).flatten(1).all(1)
        clipped = torch.where(_per_image(black), images, clipped)
    result: Tensor = clipped
    return result


def _run_from_starts(
    method: Any, model: Model, images: Tensor, labels: Tensor, epsilon: float | None
) -> Tensor:
    """As foolbox starts these attacks, but that an image for which noise finds no start stays as it is."""
    starts = LinearSearchBlendedUniformNoiseAttack(steps=50).run(model, images, Misclassification(labels))
    with torch.no_grad():
        found = model(starts).argmax(1) != labels
    result = images.clone()
    if found.any():
        criterion = Misclassification(labels[found])
        result[found] = method(
            model, images[found], criterion, starting_points=starts[found], epsilons=epsilon
        )[1]
    return result


def _margin_loss(model: Model, labels: Any) -> Callable[[Any], Any]:
    """f_6 of Carlini and Wagner 2017, summed: the largest other logit less the label's.

    Its gradient is that of the logits alone, which softmax does not take to zero: a net whose logits are multiplied by
    100 gives the same direction.
    """

    def loss(inputs: Any) -> Any:
        logits, of_class = model(inputs).raw, labels.raw.unsqueeze(1)
        margin = logits.scatter(1, of_class, -torch.inf).amax(1) - logits.gather(1, of_class)[:, 0]
        return astensor(margin.sum())

    return loss


def build_attack(attack: Attack) -> tuple[Any, float | None]:
    """The foolbox attack of a section of the params, and its budget with pixels in [0, 1].

    Raises:
        InputError: for options that an attack does not take.
    """
    if isinstance(attack, FgsmAttack):
        return Fgsm(), attack.epsilon / 255
    if isinstance(attack, NewtonFoolAttack):
        return NewtonFool(steps=attack.steps, eta=attack.eta), None
    found = getattr(foolbox.attacks, attack.attack)  # a name that params have checked
    kinds = needs_of(attack.attack).options
    options = {
        key: value / 255 if isinstance(kind := kinds[key], Number) and kind.distance else value
        for key, value in attack.options.items()
    }
    loss = options.pop("loss") if issubclass(found, BaseGradientDescent) and "loss" in options else None
    restarts = options.pop("restarts", 1)
    try:
        built = found(**options)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"options of {attack.attack}: {error} (got {attack.options})") from None
    if loss == "margin":
        built.get_loss_fn = _margin_loss  # which foolbox offers for this
    built = built.repeat(restarts) if restarts > 1 else built
    return built, None if attack.epsilon is None else attack.epsilon / 255
