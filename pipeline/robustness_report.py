"""`robustness.md`: what noise and transferred attacks do to the original, pushed and pruned models."""

from pathlib import Path

from pipeline import robustness_figures as draw
from pipeline.figures import LABELS
from pipeline.markdown import image, percent, table
from pipeline.params import FgsmAttack, GaussianNoise, NewtonFoolAttack, PoissonNoise, SpeckleNoise
from pipeline.results import Results, accuracy_drops
from pipeline.statistics import mean_interval
from pipeline.tables import MODELS

_COMPARED = (*MODELS, "source")
_FOOLED = {"only_base": "fooled the base, not the pruned model", "only_pruned": "the reverse"}


def robustness_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    draw.draw_drops(results, figures)
    galleries = _galleries(results, figures)
    return "\n".join(
        [_conditions(results), _drops(results), _accuracies(results), _outcomes(results), galleries]
    )


def _conditions(results: Results) -> str:
    params = results.params
    norms = results.perturbations.groupby("condition")[["l2", "linf"]].mean()
    rows = [
        [
            name,
            _describe(each),
            f"{norms['l2'].loc[name]:.3f}",
            f"{255 * norms['linf'].loc[name]:.1f}",
        ]
        for name, each in (*params.noise.items(), *params.attacks.items())
    ]
    n_test = int(results.accuracy["n"].iloc[0])
    return "\n".join(
        [
            f"# Robustness: {params.name}",
            "",
            f"{len(params.seeds)} seeds, {n_test} test images, all of them in every number. Every model sees the "
            "same perturbed images. Attacks are crafted once on a third model, a "
            f"{params.source.model.architecture} trained on the same split with the seed of its row, and "
            "transferred (thesis 5.2.2); an image that the source already gets wrong stays as Newton Fool finds "
            "it. Transfer alone is weak evidence of robustness; read the numbers as a comparison.",
            "",
            table(
                ["perturbation", "setting", "mean L2 norm, pixels in [0, 1]", "mean Linf norm, of 255"], rows
            ),
        ]
    )


def _describe(each: object) -> str:
    match each:
        case GaussianNoise():
            return f"standard deviation {each.std:g} of 255"
        case SpeckleNoise():
            return f"image + {each.strength:g} x image x N(0, 1)"
        case PoissonNoise():
            return f"{each.peak:g} photons at white"
        case FgsmAttack():
            return f"epsilon {each.epsilon:g} of 255"
        case NewtonFoolAttack():
            return f"{each.steps} steps at most, eta {each.eta:g}"
    return ""


def _drops(results: Results) -> str:
    drops = accuracy_drops(results.accuracy)
    confidence = results.params.report.confidence
    rows = []
    for condition in (*results.params.noise, *results.params.attacks):
        cells = [
            mean_interval(
                drops.loc[(drops["model"] == name) & (drops["condition"] == condition), "drop"].tolist(),
                confidence=confidence,
            ).percent(signed=True)
            for name in _COMPARED
        ]
        rows.append([condition, *cells])
    return "\n".join(
        [
            "## Accuracy drop",
            "",
            image("drops", "Accuracy drop of every model under every perturbation"),
            "Accuracy under the perturbation less accuracy on clean images, in points: mean and "
            f"{confidence:.0%} interval over seeds. The form of thesis Tables 5-1 to 5-3.",
            "",
            table(["perturbation", *(LABELS[name] for name in _COMPARED)], rows),
        ]
    )


def _accuracies(results: Results) -> str:
    drops = accuracy_drops(results.accuracy)
    confidence = results.params.report.confidence
    means, per_seed = [], []
    for condition in ("clean", *results.params.noise, *results.params.attacks):
        mine = drops[drops["condition"] == condition]
        values = {name: mine.loc[mine["model"] == name].set_index("seed")["accuracy"] for name in _COMPARED}
        means.append(
            [
                condition,
                *(mean_interval(values[n].tolist(), confidence=confidence).percent() for n in _COMPARED),
            ]
        )
        for seed in results.params.seeds:
            per_seed.append([condition, seed, *(percent(float(values[n].loc[seed])) for n in _COMPARED)])
    header = [LABELS[name] for name in _COMPARED]
    return "\n".join(
        [
            "## Accuracy",
            "",
            "In percent, mean and interval over seeds:",
            "",
            table(["perturbation", *header], means),
            "Per seed:",
            "",
            table(["perturbation", "seed", *header], per_seed),
        ]
    )


def _outcomes(results: Results) -> str:
    rows = [
        [row["attack"], row["seed"], row["only_first"], row["only_second"], row["both"], row["neither"]]
        for _, row in results.outcomes.iterrows()
    ]
    return "\n".join(
        [
            "## Who is fooled",
            "",
            "Of the test images that the base and the parameter-first model both get right when clean:",
            "",
            table(["attack", "seed", "only the base", "only the pruned", "both", "neither"], rows),
        ]
    )


def _galleries(results: Results, figures: Path) -> str:
    seed = results.params.seeds[0]
    parts = [
        "## Gallery",
        "",
        f"Drawn at random by seed, from seed {seed}'s models; in parentheses the softmax confidence (thesis "
        "Figures 5-2 to 5-5).",
        "",
    ]
    for attack in results.params.attacks:
        for fooled, words in _FOOLED.items():
            name = f"gallery_{attack}_{fooled}"
            parts += [f"### {attack}: {words}", ""]
            drawn = draw.draw_gallery(results, seed, attack, fooled, name, figures)
            parts.append(image(name, f"{attack}: {words}") if drawn else "No image.\n")
    return "\n".join(parts)
