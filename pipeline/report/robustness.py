"""`robustness.md`: what noise and attacks do to the original, pushed and pruned models."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL, OURS_AT_SIZE, at_size
from pipeline.params.perturbations import FoolboxAttack, ImpulseNoise, NewtonFoolAttack, PoissonNoise
from pipeline.report import robustness_figures as draw
from pipeline.report.figures import LABELS
from pipeline.report.page import bullets, counted, frame_table, grid, image, percent, section, table
from pipeline.report.published import published_drops
from pipeline.robustness.conditions import budget_unit
from pipeline.robustness.paired import CONFIDENCE_LEVEL

if TYPE_CHECKING:
    from pipeline.report.page import Interval
    from pipeline.report.results import Results
    from pipeline.robustness.conditions import Condition

_FOOLED = {"only_original": "fooled the original, not the pruned model", "only_pruned": "the reverse"}
_PRUNED = ("accuracy_first", "parameter_first")


def robustness_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    draw.draw_drops(results, figures)
    draw.draw_reliability(results, figures)
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
        _perturbations(results),
    )
    return "\n".join(filter(None, sections))


def _head(results: Results) -> str:
    params = results.params
    sources = ", ".join(f"{name} ({each.model.architecture})" for name, each in params.sources.items())
    sentences = [
        f"{counted(len(params.seeds), 'seed')}, {results.tables['accuracy']['n'].iloc[0]} test images; every image "
        "is in every number, none is excluded. Every model sees the same perturbed images."
    ]
    if params.attacks:
        sentences.append(
            "Attacks are crafted once on a third model trained on the same split with the seed of its row, "
            f"{sources}, and transferred: attacks that know the victim's weights would be adapted to each model, and "
            "models could not be compared on the same images (thesis 5.2.2)."
        )
    if params.white_box:
        sentences.append(
            "Transfer alone is weak evidence of robustness, so a white-box column stands beside it as a diagnostic."
        )
    blocks = (f"# Robustness: {params.name}", " ".join(sentences), bullets(results.notes))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _drops(results: Results) -> str:
    def cell(condition: str, model: str, *, relative: bool = False) -> str:
        return results.drop(model, condition, relative=relative).percent(signed=True)

    conditions = {name: name for name in results.headline()}
    return section(
        "Accuracy drop",
        image("drops", "Accuracy drop of every model under every perturbation"),
        "Accuracy under the perturbation less accuracy on clean images, in points: mean and "
        f"{results.params.report.confidence:.0%} interval over seeds. The form of thesis Tables 5-1 to 5-3.",
        grid("perturbation", conditions, results.main_models(), cell),
        "The same in percent of the model's own clean accuracy:",
        grid("perturbation", conditions, results.main_models(), partial(cell, relative=True)),
    )


def _severities(results: Results, figures: Path) -> str:
    if not draw.draw_severities(results, figures):
        return ""
    return section(
        "Strength by strength",
        image("severities", "Accuracy against the strength of every perturbation"),
        "Test accuracy, mean over seeds; bands run from the lowest to the highest seed.",
    )


def _white_box(results: Results) -> str:
    params = results.params
    if not params.white_box:
        return ""
    first = next(iter(params.sources))
    names = {each.key: each.name for each in results.conditions() if each.source == first}
    itself, transferred = (
        results.estimates(table, "model", by)
        for table, by in (("white_box", "attack"), ("accuracy", "condition"))
    )
    rows = []
    for model, label in results.models().items():
        pairs = [(itself[model, attack], transferred[model, names[attack]]) for attack in params.white_box]
        rows.append([label, *(each.percent() for pair in pairs for each in pair)])
    return section(
        "White box, a diagnostic",
        "Accuracy in % when the attack is crafted on the model itself, and when the same attack is transferred "
        "from the (first) source. One that holds under transfer alone is not robust; a white-box accuracy above "
        "the transferred one is a sign of masked gradients.",
        table(
            " | ".join(["model", *(f"{each}, white box | transferred" for each in params.white_box)]), rows
        ),
    )


def _accuracies(results: Results) -> str:
    found = results.estimates("accuracy", "model", "condition")
    names = {each.name: each.name for each in results.conditions()}
    return section(
        "Accuracy",
        "In percent, mean and interval over seeds; seed by seed in `tables/accuracy.csv`:",
        grid("perturbation", names, results.models(), lambda name, model: found[model, name].percent()),
    )


def _perturbations(results: Results) -> str:
    of_condition = results.tables["perturbations"].groupby("condition")
    norms = 255 * of_condition[["l2", "linf"]].mean().join(of_condition[["l2_max", "linf_max"]].max())
    rows = []
    for each in results.conditions()[1:]:
        measured = [f"{norms[norm].loc[each.name]:.1f}" for norm in ("l2", "l2_max", "linf", "linf_max")]
        rows.append([each.name, _describe(results, each), *measured])
    return section(
        "Perturbations",
        "What each did to the images, on the 0-255 scale: L2 norms of whole images, and each image's pixel that "
        "changed most (Linf). In `tables/perturbations.csv` pixels are in [0, 1].",
        table("perturbation | setting | L2, mean | L2, largest | Linf, mean | Linf, largest", rows),
    )


def _describe(results: Results, condition: Condition) -> str:
    match (results.params.noise if condition.kind == "noise" else results.params.attacks)[condition.key]:
        case PoissonNoise(peak=peak):
            return f"poisson, {peak:g} photons at white (the level is ours)"
        case ImpulseNoise(kind=kind, amount=amount):
            return f"{kind}, {amount:g} of the pixels"
        case NewtonFoolAttack(steps=steps, eta=eta):
            return f"Newton Fool, {steps} steps at most, eta {eta:g}"
        case FoolboxAttack(attack=attack, epsilon=epsilon, options=options) as entry:
            budget = [] if epsilon is None else [f"{budget_unit(entry)}: {epsilon:g}"]
            return ", ".join([attack, *budget, *(f"{key} {value}" for key, value in options.items())])
    return f"{condition.family}, {condition.unit}: {condition.strength:g}"


def _outcomes(results: Results) -> str:
    if not results.params.attacks:
        return ""
    return section(
        "Who is fooled",
        "Of the test images that the original and the parameter-first model both get right when clean:",
        frame_table(
            "attack | seed | only the original | only the pruned | both | neither",
            results.tables["outcomes"],
            "condition seed only_first only_second both neither",
        ),
    )


def _galleries(results: Results, figures: Path) -> str:
    headline, blocks = results.headline(), []
    for attack in [
        each.name for each in results.conditions() if each.kind == "attack" and each.name in headline
    ]:
        for fooled, words in _FOOLED.items():
            name, title = f"gallery_{attack}_{fooled}", f"{attack}: {words}"
            drawn = draw.draw_gallery(results, attack, fooled, name, figures)
            blocks += [f"### {title}", image(name, title) if drawn else "No image."]
    if not blocks:
        return ""
    return section(
        "Gallery",
        f"Drawn at random by seed, from seed {results.params.seeds[0]}'s models; in parentheses the softmax "
        "confidence (thesis Figures 5-2 to 5-5).",
        *blocks,
    )


def claims_section(results: Results) -> str:
    """A sentence for each claim of thesis 5.3: pruning along discriminants loses no more than the original."""
    lines = []
    for condition, name in product(results.headline(), _PRUNED):
        gain = _gain(results, name, ORIGINAL, condition)
        lines.append(
            f"{condition}: {LABELS[name]}, loses less than the original "
            f"({_drop(results, name, condition)} against {_drop(results, ORIGINAL, condition)} points, "
            f"difference {gain.percent(signed=True)}): **{verdict(gain)}**."
        )
    return section(
        "Claims",
        "The thesis finds that pruning along discriminants lowers the accuracy drop under noise and transferred "
        "attacks (section 5.3); public studies disagree on whether pruning helps or harms. Here: supported where "
        "the interval of the difference in drop over seeds lies above zero, not supported where it lies below, "
        f"undecided at this sample size ({counted(len(results.params.seeds), 'seed')}) otherwise.",
        bullets(lines),
    )


def verdict(gain: Interval) -> str:
    """Whether a gain in robustness is there, by its interval."""
    if gain.low > 0:
        return "supported"
    return "not supported" if gain.high < 0 else "undecided"


def same_size_section(results: Results) -> str:
    """Ours against its competitors at one size: whose accuracy drops less; empty where there are none."""
    lineup = results.params.lineup
    if lineup is None or not lineup.competitors:
        return ""

    def cell(condition: str, model: str) -> str:
        if model == OURS_AT_SIZE:
            return _drop(results, model, condition)
        gain = _gain(results, OURS_AT_SIZE, model, condition).percent(signed=True)
        return f"{_drop(results, model, condition)} ({gain})"

    models = [OURS_AT_SIZE, *map(at_size, lineup.competitors)]
    columns = {name: label for name, label in results.models().items() if name in models}
    return section(
        "At the same size",
        f"Models of {percent(lineup.fraction)} % of the original's parameters, with as many filters in every layer: "
        "mean "
        "change of accuracy in points, and in parentheses how much less ours loses (mean and interval over seeds).",
        grid("perturbation", {name: name for name in results.headline()}, columns, cell),
    )


def pairs_section(results: Results) -> str:
    """Within a seed: paired bootstrap over images, and McNemar's test."""
    pairs, rows = results.rows("pairs", first=ORIGINAL), []
    for condition, name in product(results.headline(), _PRUNED):
        for _, row in pairs[(pairs["condition"] == condition) & (pairs["second"] == name)].iterrows():
            change, low, high = (percent(row[each], signed=True) for each in ("change", "low", "high"))
            cells = [condition, LABELS[name], row["seed"], f"{change} [{low}, {high}]"]
            rows.append([*cells, row["only_first"], row["only_second"], f"{row['p_value']:.3g}"])
    header = "perturbation | against the original | seed | change, points | "
    header += "right: only original | right: only pruned | McNemar p"
    return section(
        "Pair by pair, on the same images",
        f"Change: how much less accuracy the pruned model loses than the original, with a {CONFIDENCE_LEVEL:.0%} "
        f"interval from {results.params.robustness.bootstrap_resamples} paired resamples of the images within the "
        "seed. McNemar's exact test compares the two models' hits on the perturbed images. No correction is made "
        "for the number of tests. All pairs and conditions: `tables/pairs.csv`.",
        table(header, rows),
    )


def _gain(results: Results, model: str, other: str, condition: str) -> Interval:
    """How much less a model loses than the other, paired by seed."""
    return results.interval(results.drops(model, condition), less=results.drops(other, condition))


def _drop(results: Results, name: str, condition: str) -> str:
    return percent(results.drop(name, condition).mean, signed=True)


def calibration_section(results: Results) -> str:
    """Expected calibration error and confidences of every model on clean, noisy and attacked images."""
    by_kind = draw.by_kind(results, "accuracy")
    rows = []
    for name, label in results.models().items():
        row = [label]
        for shown in by_kind.values():
            mine = shown[shown["model"] == name]
            row.append(results.interval(mine.groupby("seed")["ece"].mean()).percent())
            n_hits = mine["n_correct"].sum()
            for what, n in (("hits", n_hits), ("misses", mine["n"].sum() - n_hits)):
                row.append(f"{mine[f'confidence_of_{what}'].sum() / n:.3f}" if n else "-")
        rows.append(row)
    columns = [f"ECE, %, {draw.KINDS[kind]} | confidence, right | wrong" for kind in by_kind]
    return section(
        "Confidence and calibration",
        image("reliability", "Accuracy against confidence of the main models"),
        "Expected calibration error in % (mean and interval over seeds), "
        f"{results.params.robustness.calibration_bins} bins, and the mean softmax confidence where the model is "
        "right and where it is wrong, over the headline conditions of each kind. In the figure a perfectly "
        "calibrated model follows the diagonal; bins with fewer than ten images over all seeds are left out.",
        table(" | ".join(["model", *columns]), rows),
    )
