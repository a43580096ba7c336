"""`robustness.md`: what noise and attacks do to the original, pushed and pruned models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import MODELS
from pipeline.params.perturbations import FoolboxAttack, ImpulseNoise, NewtonFoolAttack, PoissonNoise
from pipeline.report import robustness_figures as draw
from pipeline.report.calibration import calibration_section, draw_reliability
from pipeline.report.figures import LABELS
from pipeline.report.markdown import counted, image, section, table
from pipeline.report.published_sections import published_drops
from pipeline.report.robustness_claims import claims_section, pairs_section, same_size_section
from pipeline.report.robustness_tables import conditions_of, drop_interval, headline_of, label_of, models_of
from pipeline.robustness.conditions import CLEAN, Condition

if TYPE_CHECKING:
    from pipeline.report.results import Results

_FOOLED = {"only_base": "fooled the base, not the pruned model", "only_pruned": "the reverse"}


def robustness_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    draw.draw_drops(results, figures)
    draw_reliability(results, figures)
    sections = (
        _head(results),
        claims_section(results),
        _drops(results),
        published_drops(results),
        _severities(results, figures),
        same_size_section(results),
        _white_box(results),
        pairs_section(results),
        calibration_section(results),
        _outcomes(results),
        _galleries(results, figures),
        _accuracies(results),
        _conditions(results),
    )
    return "\n".join(filter(None, sections))


def _head(results: Results) -> str:
    params = results.params
    n_test = int(results.tables["accuracy"]["n"].iloc[0])
    text = (
        f"{counted(len(params.seeds), 'seed')}, {n_test} test images; every image is in every number, none is "
        "excluded. Every model sees the same perturbed images."
    )
    if params.attacks:
        sources = ", ".join(f"{name} ({each.model.architecture})" for name, each in params.sources.items())
        text += (
            " Attacks are crafted once on a third model trained "
            f"on the same split with the seed of its row, {sources}, and transferred: attacks that know the victim's "
            "weights would be adapted to each model, and models could not be compared on the same images (thesis "
            "5.2.2)."
        )
    if params.white_box:
        text += (
            " Transfer alone is weak evidence of robustness, so a white-box column stands beside it as a "
            "diagnostic."
        )
    notes = [*(f"* {note}" for note in params.report.notes), *([""] if params.report.notes else [])]
    return "\n".join([f"# Robustness: {params.name}", "", text, "", *notes])


def _drops(results: Results) -> str:
    absolute, relative = (
        [
            [
                condition,
                *(
                    drop_interval(results, name, condition, relative=r).percent(signed=True)
                    for name in MODELS
                ),
            ]
            for condition in headline_of(results)
        ]
        for r in (False, True)
    )
    header = ["perturbation", *(LABELS[name] for name in MODELS)]
    return section(
        "Accuracy drop",
        image("drops", "Accuracy drop of every model under every perturbation"),
        "Accuracy under the perturbation less accuracy on clean images, in points: mean and "
        f"{results.params.report.confidence:.0%} interval over seeds. The form of thesis Tables 5-1 to 5-3.",
        "",
        table(header, absolute),
        "The same in percent of the model's own clean accuracy:",
        "",
        table(header, relative),
    )


def _severities(results: Results, figures: Path) -> str:
    if not draw.draw_severities(results, figures):
        return ""
    return section(
        "Strength by strength",
        image("severities", "Accuracy against the strength of every perturbation"),
        "Test accuracy, mean over seeds; bands run from the lowest to the highest seed.",
        "",
    )


def _white_box(results: Results) -> str:
    params = results.params
    if not params.white_box:
        return ""
    first = next(iter(params.sources))
    transferred = {each.key: each.name for each in conditions_of(results) if each.source == first}
    rows = []
    for name in models_of(results):
        cells = []
        for attack in params.white_box:
            itself = results.rows("white_box", model=name, attack=attack)
            same = results.rows("accuracy", model=name, condition=transferred[attack])
            cells += [results.interval(each["accuracy"]).percent() for each in (itself, same)]
        rows.append([label_of(results, name), *cells])
    header = ["model"]
    for attack in params.white_box:
        header += [f"{attack}, white box", "transferred"]
    return section(
        "White box, a diagnostic",
        "Accuracy in % when the attack is crafted on the model itself, and when the same attack is transferred "
        "from the (first) source. One that holds under transfer alone is not robust; a white-box accuracy above "
        "the transferred one is a sign of masked gradients.",
        "",
        table(header, rows),
    )


def _accuracies(results: Results) -> str:
    names = models_of(results)
    means = []
    for each in conditions_of(results):
        rows = [results.rows("accuracy", model=name, condition=each.name) for name in names]
        means.append([each.name, *(results.interval(row["accuracy"]).percent() for row in rows)])
    return section(
        "Accuracy",
        "In percent, mean and interval over seeds; seed by seed in `tables/accuracy.csv`:",
        "",
        table(["perturbation", *(label_of(results, name) for name in names)], means),
    )


def _conditions(results: Results) -> str:
    norms = results.tables["perturbations"].groupby("condition")[["l2", "linf"]].mean()
    rows = [
        [
            each.name,
            _describe(results, each),
            f"{norms['l2'].loc[each.name]:.3f}",
            f"{255 * norms['linf'].loc[each.name]:.1f}",
        ]
        for each in conditions_of(results)
        if each.kind != CLEAN
    ]
    header = ["perturbation", "setting", "mean L2 norm, pixels in [0, 1]", "mean Linf norm, of 255"]
    return section("Perturbations", table(header, rows))


def _describe(results: Results, condition: Condition) -> str:
    params = results.params
    entry = params.noise[condition.key] if condition.kind == "noise" else params.attacks[condition.key]
    match entry:
        case PoissonNoise():
            return f"poisson, {entry.peak:g} photons at white"
        case ImpulseNoise():
            return f"{entry.kind}, {entry.amount:g} of the pixels"
        case NewtonFoolAttack():
            return f"Newton Fool, {entry.steps} steps at most, eta {entry.eta:g}"
        case FoolboxAttack():
            budget = "" if entry.epsilon is None else f", epsilon {entry.epsilon:g} of 255"
            options = ", ".join(f"{key} {value}" for key, value in entry.options.items())
            return f"{entry.attack}{budget}{', ' if options else ''}{options}"
    return f"{condition.family}, {condition.unit}: {condition.strength:g}"


def _outcomes(results: Results) -> str:
    if not results.params.attacks:
        return ""
    columns = ["condition", "seed", "only_first", "only_second", "both", "neither"]
    return section(
        "Who is fooled",
        "Of the test images that the base and the parameter-first model both get right when clean:",
        "",
        table(
            ["attack", "seed", "only the base", "only the pruned", "both", "neither"],
            results.tables["outcomes"][columns].to_numpy().tolist(),
        ),
    )


def _galleries(results: Results, figures: Path) -> str:
    headline = headline_of(results)
    attacks = [
        each.name for each in conditions_of(results) if each.kind == "attack" and each.name in headline
    ]
    if not attacks:
        return ""
    parts = []
    for attack in attacks:
        for fooled, words in _FOOLED.items():
            name = f"gallery_{attack}_{fooled}"
            drawn = draw.draw_gallery(results, attack, fooled, name, figures)
            parts += [f"### {attack}: {words}", ""]
            parts.append(image(name, f"{attack}: {words}") if drawn else "No image.\n")
    return section(
        "Gallery",
        f"Drawn at random by seed, from seed {results.params.seeds[0]}'s models; in parentheses the softmax "
        "confidence (thesis Figures 5-2 to 5-5).",
        "",
        *parts,
    )
