"""What each attack of foolbox needs to run as `pipeline.attacks` calls it: its norm, its budget and its options.

By name, as importing foolbox takes time; a test holds the table against the installed foolbox and runs every attack.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, NamedTuple

from pipeline.params.bounds import BUDGETS

Norm = Literal["L0", "L1", "L2", "Linf"]


class Number(NamedTuple):
    """An option that is a number between two bounds, both allowed; a `distance` is on the 0-255 scale of pixels."""

    low: float
    high: float
    whole: bool = False
    distance: bool = False


Words = tuple[str | bool, ...]


class Needs(NamedTuple):
    """How an attack is called.

    `norm`: what its budget and what it minimises are measured in; None: no distance. `epsilon`: `whole` is spent
    whole and has to be there, `limit` may be null, `none` is not taken. `options`: those of its constructor, and their
    values: a number between bounds, or one of several words; `required`: those without a value of foolbox's own.
    """

    norm: Norm | None
    epsilon: Literal["whole", "limit", "none"]
    options: Mapping[str, Number | Words]
    required: tuple[str, ...] = ()


_COUNT, _SHARE, _LEAST = Number(1, 1_000_000, whole=True), Number(0, 1), 1e-9
_LENGTH = Number(_LEAST, BUDGETS["L2"], distance=True)
_ON = (True, False)
_STEPS: dict[str, Any] = {"steps": _COUNT}
_SEARCH: dict[str, Any] = _STEPS | {"binary_search_steps": _COUNT}
# `loss` is ours: foolbox has the cross-entropy alone, whose gradient vanishes where logits are large. So is `restarts`,
# how often to start at random; of each image the first start that fools counts.
_ONE_STEP: dict[str, Any] = {
    "random_start": _ON,
    "loss": ("crossentropy", "margin"),
    "restarts": Number(1, 1_000, whole=True),
}
_DESCENT: dict[str, Any] = {
    **_ONE_STEP,
    **_STEPS,
    "rel_stepsize": Number(0.001, 2),  # of the budget: two of them cross its ball
    "abs_stepsize": _LENGTH,
}
_ADAM = {name: Number(0, 0.999999) for name in ("adam_beta1", "adam_beta2")} | {
    "adam_epsilon": Number(1e-12, 1)
}
_REPEATED: dict[str, Any] = {"repeats": _COUNT, "check_trivial": _ON}
_WEIGHTED: dict[str, Any] = {
    **_SEARCH,
    "confidence": Number(0, 1_000_000),
    "initial_const": Number(_LEAST, 1e10),
    "abort_early": _ON,
}
_DEEP_FOOL: dict[str, Any] = {
    **_STEPS,
    "candidates": Number(2, 1_000_000, whole=True),
    "overshoot": Number(0, 10),
    "loss": ("logits", "crossentropy"),
}
_FMN: dict[str, Any] = {
    **_STEPS,
    "max_stepsize": _LENGTH,
    "min_stepsize": _LENGTH,
    "gamma": Number(_LEAST, 0.999),
}
_NORMS: tuple[Norm, ...] = ("L1", "L2", "Linf")

ATTACKS: dict[str, Needs] = {
    **{f"{norm}FastGradientAttack": Needs(norm, "whole", _ONE_STEP) for norm in _NORMS},
    **{
        f"{norm}{kind}Attack": Needs(norm, "whole", _DESCENT | more)
        for norm in _NORMS
        for kind, more in {
            "BasicIterative": {},
            "ProjectedGradientDescent": {},
            "AdamBasicIterative": _ADAM,
            "AdamProjectedGradientDescent": _ADAM,
        }.items()
    },
    **{
        f"{norm}MomentumIterativeFastGradientMethod": Needs(
            norm, "whole", _DESCENT | {"momentum": Number(0, 10)}
        )
        for norm in _NORMS
    },
    "SparseL1DescentAttack": Needs("L1", "whole", _DESCENT | {"quantile": _SHARE}),
    "VirtualAdversarialAttack": Needs("L2", "whole", _STEPS | {"xi": _LENGTH}, ("steps",)),
    "L2ContrastReductionAttack": Needs("L2", "whole", {"target": _SHARE}),
    **{
        f"L2{clipping}{repeated}Additive{kind}NoiseAttack": Needs(
            "L2", "whole", _REPEATED if repeated else {}
        )
        for clipping, repeated, kind in product(
            ("", "ClippingAware"), ("", "Repeated"), ("Gaussian", "Uniform")
        )
    },
    "LinfAdditiveUniformNoiseAttack": Needs("Linf", "whole", {}),
    "LinfRepeatedAdditiveUniformNoiseAttack": Needs("Linf", "whole", _REPEATED),
    "L2CarliniWagnerAttack": Needs("L2", "limit", _WEIGHTED | {"stepsize": Number(_LEAST, 10)}),
    "EADAttack": Needs(
        "L1",
        "limit",
        _WEIGHTED
        | {"initial_stepsize": Number(_LEAST, 10), "decision_rule": ("EN", "L1")}
        | {"regularization": Number(_LEAST, 255, distance=True)},
    ),
    "NewtonFoolAttack": Needs("L2", "limit", _STEPS | {"stepsize": Number(_LEAST, 10)}),
    "DDNAttack": Needs("L2", "limit", _STEPS | {"init_epsilon": _LENGTH, "gamma": Number(_LEAST, 0.999)}),
    "L2DeepFoolAttack": Needs("L2", "limit", _DEEP_FOOL),
    "LinfDeepFoolAttack": Needs("Linf", "limit", _DEEP_FOOL),
    "L0FMNAttack": Needs("L0", "none", _FMN),
    "L1FMNAttack": Needs("L1", "limit", _FMN),
    "LInfFMNAttack": Needs("Linf", "limit", _FMN),
    "SaltAndPepperNoiseAttack": Needs("L2", "limit", _STEPS | {"across_channels": _ON}),
    "BoundaryAttack": Needs(
        "L2",
        "limit",
        _STEPS
        | {"spherical_step": Number(_LEAST, 1), "source_step": Number(_LEAST, 1)}
        | {"source_step_convergance": Number(0, 1), "step_adaptation": Number(1.001, 10)}
        | {"update_stats_every_k": _COUNT},
    ),
    "HopSkipJumpAttack": Needs(
        "L2",
        "limit",
        _STEPS
        | {"initial_gradient_eval_steps": _COUNT, "max_gradient_eval_steps": _COUNT}
        | {"stepsize_search": ("geometric_progression", "grid_search"), "gamma": Number(_LEAST, 1e6)}
        | {"constraint": ("l2", "linf")},
    ),
    "InversionAttack": Needs(None, "none", {}),
    "BinarySearchContrastReductionAttack": Needs(
        None, "none", {"binary_search_steps": _COUNT, "target": _SHARE}
    ),
    "LinearSearchContrastReductionAttack": Needs(None, "none", _STEPS | {"target": _SHARE}),
    "LinearSearchBlendedUniformNoiseAttack": Needs(None, "none", _STEPS | {"directions": _COUNT}),
    "GaussianBlurAttack": Needs(None, "none", _STEPS | {"max_sigma": Number(_LEAST, 10_000)}),
    "SpatialAttack": Needs(
        None,
        "none",
        {"max_translation": Number(0, 10_000), "max_rotation": Number(0, 180)}
        | {"num_translations": _COUNT, "num_rotations": _COUNT},
    ),
}
# foolbox's shorter names.
ALIASES = {
    "FGM": "L2FastGradientAttack",
    "FGSM": "LinfFastGradientAttack",
    "PGD": "LinfProjectedGradientDescentAttack",
    "MIFGSM": "LinfMomentumIterativeFastGradientMethod",
    "AdamPGD": "LinfAdamProjectedGradientDescentAttack",
    **{f"{norm}PGD": f"{norm}ProjectedGradientDescentAttack" for norm in _NORMS},
    **{f"{norm}AdamPGD": f"{norm}AdamProjectedGradientDescentAttack" for norm in _NORMS},
}
REFUSED = {
    **{
        f"{norm}BrendelBethgeAttack": "it needs numba, which this project does not install"
        for norm in ("L0", "L1", "L2", "Linfinity")
    },
    "BinarizationRefinementAttack": "it needs the images of another attack to start from",
    "DatasetAttack": "it needs other images to blend with",
    "GenAttack": "it needs a class to be taken for",
    "L2FMNAttack": "foolbox 3.3.4 does not project it, so that it finds no small perturbation; take DDNAttack",
    "PointwiseAttack": "it draws from a generator that no seed reaches",
}


def needs_of(name: str) -> Needs:
    """What a known attack needs, under either of its names."""
    return ATTACKS[ALIASES.get(name, name)]


def norm_of(name: str, options: dict[str, Any]) -> Norm | None:
    """The norm of an attack's budget; None if it has no distance."""
    return "Linf" if options.get("constraint") == "linf" else needs_of(name).norm


def problems_of(name: str, epsilon: float | None, options: dict[str, Any]) -> Iterator[str]:
    """Lines `KEY: expected ... (got ...)` for all that keeps a known attack from running as it says."""
    if name in REFUSED:
        yield f"attack: expected one that can run here; {REFUSED[name]} (got {name!r})"
        return
    needs, norm = needs_of(name), norm_of(name, options)
    if needs.epsilon == "whole" and epsilon is None:
        yield f"epsilon: expected a budget, which {name} spends whole (got null)"
    if needs.epsilon == "none" and epsilon is not None:
        yield f"epsilon: expected null, as {name} keeps to no budget (got {epsilon:g})"
    elif epsilon is not None and norm is not None and epsilon > BUDGETS[norm]:
        yield f"epsilon: expected at most {BUDGETS[norm]:g} in {norm} on the 0-255 scale (got {epsilon:g})"
    for key, value in options.items():
        if key not in needs.options:
            known = ", ".join(needs.options) or "none"
            yield f"options.{key}: unknown key (got {value!r}); allowed: {known}"
        elif problem := _problem_of(needs.options[key], value):
            yield f"options.{key}: expected {problem} (got {value!r})"
        elif key == "abs_stepsize" and epsilon is not None and value > 2 * epsilon:
            yield f"options.{key}: expected at most two epsilons, {2 * epsilon:g} (got {value!r})"
    for key in needs.required:
        if key not in options:
            yield f"options.{key}: required key is missing"
    if "restarts" in options and not options.get("random_start", _starts_at_random(name)):
        yield f"options.restarts: expected none without random_start (got {options['restarts']!r})"
    if {"rel_stepsize", "abs_stepsize"} <= options.keys():
        yield f"options.rel_stepsize: expected none beside abs_stepsize (got {options['rel_stepsize']!r})"


def _starts_at_random(name: str) -> bool:
    """Whether an attack does unless it is told not to."""
    return "ProjectedGradientDescent" in ALIASES.get(name, name)


def _problem_of(kind: Number | Words, value: Any) -> str:
    """What is expected of an option's value; empty where it is that."""
    if isinstance(kind, Number):
        is_number = isinstance(value, int if kind.whole else int | float) and not isinstance(value, bool)
        if is_number and kind.low <= value <= kind.high:
            return ""
        unit = ", on the 0-255 scale" if kind.distance else ""
        return f"{'an integer' if kind.whole else 'a number'} from {kind.low:g} to {kind.high:g}{unit}"
    if any(type(value) is type(each) and value == each for each in kind):
        return ""
    return f"one of {', '.join(str(each).lower() if isinstance(each, bool) else each for each in kind)}"
