"""What the papers print, to stand beside what a run produced; never mixed with it.

Accuracies and drops in percent, parameters as printed. A row names the model of this project that it is held
against: one of the main flow, `ours` or a competitor of the comparison at matched sizes (the size nearest to the
printed one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.params.params import PublishedName

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class PublishedScore:
    """An accuracy in percent; `params` is None where the source prints none."""

    what: str
    model: str
    split: Split
    accuracy: float
    params: float | None
    source: str


@dataclass(frozen=True)
class PublishedDrop:
    """The change of accuracy of a model under a perturbation, in points."""

    perturbation: str
    model: str
    drop: float
    source: str


def _drops(source: str, models: tuple[str, ...], rows: dict[str, tuple[float, ...]]) -> list[PublishedDrop]:
    return [
        PublishedDrop(perturbation, model, drop, source)
        for perturbation, drops in rows.items()
        for model, drop in zip(models, drops, strict=True)
    ]


def _faces(
    source: str, base: float, rows: dict[str, tuple[float, float]], first: float, small: float
) -> list[PublishedScore]:
    """A table of chapter 3: fixed nets, Han, Li and ours, accuracy first and parameter first."""
    scores = [PublishedScore("base", "base", "test", base, None, source)]
    for what, (high, low) in rows.items():
        scores.append(PublishedScore(f"{what}, accuracy first", what, "test", high, first, source))
        scores.append(PublishedScore(f"{what}, parameter first", what, "test", low, small, source))
    return scores


_PRUNED = ("base", "parameter_first")

SCORES: dict[PublishedName, list[PublishedScore]] = {
    "mnist": [
        PublishedScore("base", "base", "validation", 97.9, 4.0e6, "thesis 4.3.1"),
        PublishedScore("pushed", "pushed", "validation", 98.3, 4.0e6, "thesis 4.3.1"),
        PublishedScore("base", "base", "test", 98.1, 4.0e6, "thesis Table 4-2"),
        PublishedScore("single weights (Han et al.)", "han", "test", 96.9, 38.6e3, "thesis Table 4-2"),
        PublishedScore("pushed and pruned", "ours", "test", 97.6, 38.6e3, "thesis Table 4-2"),
        PublishedScore("pushed and pruned", "parameter_first", "test", 97.6, 38.6e3, "thesis Table 4-2"),
    ],
    "cifar10": [
        PublishedScore("base", "base", "validation", 95.19, 134.3e6, "thesis 4.3.2"),
        PublishedScore("pushed", "pushed", "validation", 95.72, 134.3e6, "thesis 4.3.2"),
        PublishedScore("most accurate pruned", "accuracy_first", "validation", 96.01, 118e6, "thesis 4.3.2"),
        PublishedScore("base", "base", "test", 94.3, 134.3e6, "thesis Table 4-4"),
        PublishedScore("MobileNet", "mobilenet", "test", 92.5, 3.2e6, "thesis Table 4-4"),
        PublishedScore("activation-based", "activation_mean", "test", 87.2, 3.5e6, "thesis Table 4-4"),
        PublishedScore("after the fact", "lda_after_the_fact", "test", 92.6, 3.2e6, "thesis Table 4-4"),
        PublishedScore("pushed and pruned", "ours", "test", 92.8, 3.0e6, "thesis Table 4-4"),
    ],
    "cifar100": [
        PublishedScore("base", "base", "test", 78, 6.1e6, "thesis Table 3-3"),
        PublishedScore("MobileNet", "mobilenet", "test", 76, 4.3e6, "thesis Table 3-3"),
        PublishedScore("SqueezeNet", "squeezenet", "test", 71, 1.3e6, "thesis Table 3-3"),
        PublishedScore("Han et al., accuracy first", "han", "test", 78, 4.8e6, "thesis Table 3-3"),
        PublishedScore("Han et al., parameter first", "han", "test", 73, 2.6e6, "thesis Table 3-3"),
        PublishedScore("Li et al., accuracy first", "l1", "test", 78, 4.8e6, "thesis Table 3-3"),
        PublishedScore("Li et al., parameter first", "l1", "test", 74, 2.6e6, "thesis Table 3-3"),
        PublishedScore("ours, accuracy first", "accuracy_first", "test", 80, 4.8e6, "thesis Table 3-3"),
        PublishedScore("ours, parameter first", "parameter_first", "test", 77, 2.6e6, "thesis Table 3-3"),
    ],
    "imagenet": [
        PublishedScore("Inception-88", "grown", "test", 75.01, 25.1e6, "thesis 4.3.3"),
        PublishedScore("pushed", "pushed", "test", 75.20, 25.1e6, "thesis 4.3.3"),
        PublishedScore("about 6 % pruned", "accuracy_first", "test", 75.36, None, "thesis 4.3.3"),
    ],
    "imagenet_mobilenet_v2": [
        PublishedScore("base", "base", "test", 72.01, None, "CVIU 5.4"),
        PublishedScore("pushed", "pushed", "test", 72.12, None, "CVIU 5.4"),
    ],
    "lfwa_gender": _faces(
        "thesis Table 3-1",
        91,
        {"han": (89, 83), "l1": (88, 85), "ours": (93, 92)},
        first=6.5e6,
        small=3.1e6,
    ),
    "lfwa_smile": _faces(
        "thesis Table 3-1",
        91,
        {"han": (91, 81), "l1": (91, 83), "ours": (93, 90)},
        first=18e6,
        small=1.8e6,
    ),
    "adience_age": _faces(
        "thesis Table 3-2",
        55,
        {"han": (56, 43), "l1": (56, 46), "ours": (58, 54)},
        first=2.3e6,
        small=1.1e6,
    ),
}

DROPS: dict[PublishedName, list[PublishedDrop]] = {
    "cifar100": _drops(
        "thesis Table 5-1",
        _PRUNED,
        {
            "gaussian": (-2.5, -2.0),
            "poisson": (-0.1, 0.0),
            "speckle": (-3.7, -3.1),
            "fgsm": (-8.1, -7.4),
            "newton_fool": (-6.1, -3.9),
        },
    ),
    "adience_age": _drops(
        "thesis Table 5-1",
        _PRUNED,
        {
            "gaussian": (-0.5, -0.1),
            "poisson": (-0.3, 0.0),
            "speckle": (-1.5, -1.0),
            "fgsm": (-0.4, -0.4),
            "newton_fool": (-4.5, -1.7),
        },
    ),
    "lfwa_gender": _drops(
        "thesis Table 5-2",
        _PRUNED,
        {
            "gaussian": (-5.2, -4.2),
            "poisson": (0.0, 0.0),
            "speckle": (-0.5, -0.2),
            "fgsm": (0.0, 0.0),
            "newton_fool": (-0.2, -0.1),
        },
    ),
    "lfwa_smile": _drops(
        "thesis Table 5-2",
        _PRUNED,
        {
            "gaussian": (-1.4, -1.2),
            "poisson": (0.0, 0.0),
            "speckle": (-0.2, 0.0),
            "fgsm": (-0.1, 0.0),
            "newton_fool": (-3.1, -2.5),
        },
    ),
    "imagenet": _drops(
        "thesis Table 5-3",
        ("grown", "pushed", "parameter_first"),
        {
            "gaussian": (-1.2, -1.2, -1.0),
            "poisson": (0.0, 0.0, 0.0),
            "speckle": (-2.2, -2.1, -1.6),
            "fgsm": (-2.0, -2.0, -1.8),
            "newton_fool": (-4.3, -3.8, -4.1),
        },
    ),
}
