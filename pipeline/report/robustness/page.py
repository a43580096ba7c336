"""The page's sections on what noise and attacks do to the models, and pairs of models within a seed."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL, OURS_AT_SIZE, at_size
from pipeline.params.perturbations import FoolboxAttack, ImpulseNoise, NewtonFoolAttack, PoissonNoise
from pipeline.report.claims.robustness import doubt, gain
from pipeline.report.claims.verdicts import holm
from pipeline.report.figures import LABELS
from pipeline.report.markdown import counted, frame_table, grid, image, percent, section, table
from pipeline.report.published import published_drops
from pipeline.report.results import counted_images
from pipeline.report.robustness.calibration import calibration_section
from pipeline.report.robustness.corruption import corruption_section
from pipeline.report.robustness.strengths import sources_section, white_box_strengths_section
from pipeline.report.summary import (
    ALL_TEST_IMAGES,
    INTERVALS,
    MARK,
    footnotes,
    labelled,
    marked,
    n_images,
    over_seeds,
)
from pipeline.robustness.conditions import budget_unit
from pipeline.robustness.paired import CONFIDENCE_LEVEL

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.robustness.conditions import Condition

_PRUNED = ("accuracy_first", "parameter_first")


def robustness_report(results: Results, *, drawn: bool = True) -> str:
    """Every section but the galleries; `drawn`: whether there is a figure of accuracy against strength."""
    sections = (
        head_section(results),
        drops_section(results),
        published_drops(results),
        corruption_section(results),
        severities_section(results, drawn=drawn),
        same_size_section(results),
        white_box_section(results),
        white_box_strengths_section(results),
        sources_section(results),
        pairs_section(results),
        calibration_section(results),
        outcomes_section(results),
        accuracies_section(results),
        perturbations_section(results),
    )
    return "\n".join(filter(None, sections))


def head_section(results: Results) -> str:
    """On which images, and on which nets attacks are crafted."""
    params = results.params
    sources = ", ".join(f"{name} ({each.model.architecture})" for name, each in params.sources.items())
    n_test, n_perturbed = (n_images(results, *which) for which in ALL_TEST_IMAGES)
    sentences = [
        f"{counted(len(params.seeds), 'seed')}, {n_perturbed} of the {counted(n_test, 'test image')}; every one "
        "of these is in every number on this page, clean and perturbed, none is excluded. Every model sees the same "
        f"perturbed images. Of the {params.report.confidence:.0%} intervals: {INTERVALS}"
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
    return section("How robustness is measured", " ".join(sentences))


def drops_section(results: Results) -> str:
    """The form of thesis Tables 5-1 to 5-3."""

    def cell(condition: str, model: str, *, relative: bool = False) -> str:
        return results.drop(model, condition, relative=relative).percent(signed=True)

    conditions = {name: marked(results, name) for name in results.headline()}
    models = labelled(results, results.main_models())
    return section(
        "Accuracy drop",
        image("drops", "Accuracy drop of every model under every perturbation"),
        f"Accuracy under the perturbation less accuracy on the same images when clean, in points: "
        f"{over_seeds(results)}. The form of thesis Tables 5-1 to 5-3.",
        grid("perturbation", conditions, models, cell),
        "The same in percent of the model's own clean accuracy:",
        grid("perturbation", conditions, models, partial(cell, relative=True)),
        footnotes(results),
    )


def severities_section(results: Results, *, drawn: bool) -> str:
    """Accuracy against strength; empty where no perturbation has one."""
    if not drawn:
        return ""
    return section(
        "Strength by strength",
        image("severities", "Accuracy against the strength of every perturbation"),
        f"Test accuracy against strength, {over_seeds(results)}; the bands are the intervals of the original and of "
        "the parameter-first model. A line joins one model's accuracies.",
    )


def same_size_section(results: Results) -> str:
    """Ours against its competitors at one size: whose accuracy drops less; empty where there are none."""
    lineup = results.params.lineup
    if lineup is None or not lineup.competitors:
        return ""

    def cell(condition: str, model: str) -> str:
        if model == OURS_AT_SIZE:
            return _drop(results, model, condition)
        why = doubt(results, (OURS_AT_SIZE, model), condition)
        better = results.difference(gain(results, OURS_AT_SIZE, model, condition)).percent(signed=True)
        return f"{_drop(results, model, condition)} ({f'no claim, {why}' if why else better})"

    models = [OURS_AT_SIZE, *map(at_size, lineup.competitors)]
    columns = labelled(results, {name: label for name, label in results.models().items() if name in models})
    return section(
        "At the same size",
        f"Models of {percent(lineup.fraction)} % of the original's parameters, with as many filters in every layer: "
        "mean change of accuracy in points, and in parentheses how much less ours loses, above zero where it does "
        f"({over_seeds(results)}). The verdicts, corrected for their number, are among the claims.",
        grid("perturbation", {name: marked(results, name) for name in results.headline()}, columns, cell),
    )


def pairs_section(results: Results) -> str:
    """Within a seed: the images' interval, pair by pair, and McNemar's test."""
    pairs = results.rows("pairs", first=ORIGINAL)
    pairs = pairs[pairs["condition"].isin(results.headline()) & pairs["second"].isin(_PRUNED)]
    pairs = pairs.assign(corrected=holm(pairs["p_value"]))
    rows = []
    for condition, name in product(results.headline(), _PRUNED):
        for _, row in pairs[(pairs["condition"] == condition) & (pairs["second"] == name)].iterrows():
            change, low, high = (percent(row[each], signed=True) for each in ("change", "low", "high"))
            cells = [condition, LABELS[name], row["seed"], f"{change} [{low}, {high}]"]
            p = [f"{row[each]:.3g}" for each in ("p_value", "corrected")]
            rows.append([*cells, row["only_first"], row["only_second"], *p])
    header = "perturbation | against the original | seed | change, points | "
    header += "right: only original | right: only pruned | McNemar p | p, Holm"
    return section(
        "Pair by pair, on the same images",
        f"Change: how much less accuracy the pruned model loses than the original, with the {CONFIDENCE_LEVEL:.0%} "
        "interval of the images within the seed, image by image. McNemar's exact test compares the two models' hits "
        f"on the perturbed images; Holm's correction is over the {len(rows)} tests of this table. A seed's test is of "
        "its two nets, not of pruning. All pairs and conditions, uncorrected: `tables/pairs.csv`.",
        table(header, rows),
    )


def _drop(results: Results, name: str, condition: str) -> str:
    return percent(results.drop(name, condition).mean, signed=True)


def white_box_section(results: Results) -> str:
    """Attacks on the model itself beside the same attacks transferred; empty without any."""
    params = results.params
    if not params.white_box:
        return ""
    first = next(iter(params.sources))
    names = {each.key: each.name for each in results.conditions() if each.source == first}
    itself, transferred = (
        results.estimates(table, "model", by)
        for table, by in (("white_box", "attack"), ("accuracy", "condition"))
    )
    rows, untouched = [], list[list[object]]()
    header = "model | attack | images it got right | left as they were | without a gradient | no hold"
    for model, label in labelled(results, results.models()).items():
        cells = []
        for attack in params.white_box:
            left = counted_images(results.rows("white_box", model=model, attack=attack))
            mark = f" {MARK}" if results.is_idle(left) else ""
            cells += [itself[model, attack].percent() + mark, transferred[model, names[attack]].percent()]
            if left.n_idle or left.n_vanished:
                untouched.append([label, attack, *left])
        rows.append([label, *cells])
    return section(
        "White box, a diagnostic",
        "Accuracy in % when the attack is crafted on the model itself, and when the same attack is transferred "
        "from the (first) source. One that holds under transfer alone is not robust; a white-box accuracy above "
        "the transferred one is a sign of masked gradients.",
        table(
            " | ".join(["model", *(f"{each}, white box | transferred" for each in params.white_box)]), rows
        ),
        f"{MARK}: the attack had no hold on more than {percent(params.report.max_untouched)} % of the images that the "
        "model got right (left as they were, or their gradient zero or not finite and they right still): the number "
        "shows no robustness, a saturated net looks the same. "
        + ("Over all seeds:" if untouched else "No image was left as it was or is without a gradient."),
        table(header, untouched) if untouched else "",
    )


def accuracies_section(results: Results) -> str:
    """Of every model under every condition."""
    found = results.estimates("accuracy", "model", "condition")
    names = {each.name: marked(results, each.name) for each in results.conditions()}

    def cell(condition: str, model: str) -> str:
        return found[model, condition].percent()

    return section(
        "Accuracy",
        f"In percent, {over_seeds(results)}; seed by seed in `tables/accuracy.csv`:",
        grid("perturbation", names, labelled(results, results.models()), cell),
    )


def perturbations_section(results: Results) -> str:
    """How large each perturbation really is, and how many images it left untouched."""
    of_condition = results.tables["perturbations"].groupby("condition")
    norms = 255 * of_condition[["l2", "linf"]].mean().join(of_condition[["l2_max", "linf_max"]].max())
    rows = []
    for each in results.conditions()[1:]:
        measured = [f"{norms[norm].loc[each.name]:.1f}" for norm in ("l2", "l2_max", "linf", "linf_max")]
        found = results.untouched(each.name)
        left = (
            [f"{found.n_untouched} of {found.n_attacked}", found.n_vanished]
            if found.n_attacked
            else ["-", "-"]
        )
        rows.append([marked(results, each.name), describe(results, each), *measured, *left])
    header = (
        "perturbation | setting | L2, mean | L2, largest | Linf, mean | Linf, largest | left as they were | "
    )
    return section(
        "Perturbations",
        "What each did to the images, on the 0-255 scale: L2 norms of whole images, and each image's pixel that "
        "changed most (Linf). Images are kept as float16, which moves a pixel by up to 0.06 of 255: a budget of 16 is "
        "measured as 16.1. In `tables/perturbations.csv` pixels are in [0, 1]. Left as they were: of the images that "
        "an attack's source got right, over all seeds; beside them those at which the source's gradient is zero or not "
        "finite.",
        table(f"{header}without a gradient", rows),
    )


def describe(results: Results, condition: Condition) -> str:
    """The setting of a noise or an attack, in words."""
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


def outcomes_section(results: Results) -> str:
    """Whom transferred attacks fooled; empty without attacks."""
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
