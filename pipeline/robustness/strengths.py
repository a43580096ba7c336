"""Accuracy against the strength of white-box attacks, attack by attack and in the worst case over all of a norm.

An attack with a budget b says who survives within b. One that looks for the smallest perturbation says at which
distance d an image falls, and so who survives within every budget: all but those with d <= b. As every ball of radius b
holds the smaller ones, an image is robust at b only if it survives every attack of the norm with a budget of at most b,
and every smallest perturbation of at most b (the pointwise worst case of foolbox, AutoAttack and Carlini et al. 2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.params.foolbox_attacks import Norm, norm_of
from pipeline.params.perturbations import Attack, FgsmAttack, FoolboxAttack

if TYPE_CHECKING:
    from torch import Tensor

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float32]

_ORDERS = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": float("inf")}
# So that no table of distances is read as numbers.
_PACKED = "x"


def norm_and_budget(attack: Attack) -> tuple[Norm | None, float | None]:
    """What an attack's perturbations are measured in, and its budget on the 0-255 scale.

    No norm: it measures none. No budget: it looks for the smallest perturbation, as far as it has a norm.
    """
    if isinstance(attack, FgsmAttack):
        return "Linf", attack.epsilon
    if isinstance(attack, FoolboxAttack):
        return norm_of(attack.attack, attack.options), attack.epsilon
    return "L2", None  # Newton Fool


def past_the_border(clean: Tensor, crafted: Tensor) -> Tensor:
    """Smallest perturbations a thousandth longer: on the border itself the last bit would say who has fallen."""
    return (clean + 1.001 * (crafted - clean)).clamp(0, 1)


def pack_distances(clean: Tensor, crafted: Tensor, norm: Norm) -> str:
    """How far each image (n, channels, height, width) in [0, 1] was moved, on the 0-255 scale, as text for a table.

    In the norm of the attack; L0 counts values that differ, whatever the scale.
    """
    found = (crafted - clean).flatten(1).norm(p=_ORDERS[norm], dim=1).cpu().numpy()
    found = found if norm == "L0" else 255 * found
    return f"{_PACKED}{found.astype('<f4').tobytes().hex()}"


def unpack_distances(packed: str) -> Distances:
    """What `pack_distances` packed, (n,)."""
    return np.frombuffer(bytes.fromhex(packed.removeprefix(_PACKED)), dtype="<f4")


def survivors(
    budget: float, clean: Mask, *, within: list[tuple[float, Mask]], smallest: list[tuple[Distances, Mask]]
) -> Mask:
    """Mask of the images that are right when clean and under every attack that keeps to a budget.

    Args:
        budget: in the norm of all of these attacks.
        clean: mask of hits on clean images.
        within: of attacks with a budget of their own, that budget and their hits; those with a larger one have no say.
        smallest: of those that look for the smallest perturbation, how far each image was moved, and their hits.
    """
    robust = clean.copy()
    for own, hits in within:
        if own <= budget:
            robust &= hits
    for distances, hits in smallest:
        robust &= hits | (distances > budget)
    return robust
