"""`robustness.md`: what noise and attacks do to the original, pushed and pruned models."""

from pathlib import Path

from pipeline.params.perturbations import FoolboxAttack, ImpulseNoise, NewtonFoolAttack, PoissonNoise
from pipeline.report import robustness_figures as draw
from pipeline.report.calibration import calibration_section, draw_reliability
from pipeline.report.figures import LABELS
from pipeline.report.markdown import counted, image, table
from pipeline.report.published_sections import published_drops
from pipeline.report.results import Results, with_accuracy
from pipeline.report.robustness_claims import claims_section, pairs_section, same_size_section
from pipeline.report.robustness_tables import conditions_of, drop_interval, headline_of, label_of, models_of
from pipeline.report.statistics import mean_interval
from pipeline.robustness.conditions import CLEAN, Condition
from pipeline.workflow.tables import MODELS

_FOOLED = {"only_base": "fooled the base, not the pruned model", "only_pruned": "the reverse"}


def robustness_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    draw.draw_drops(results, figures)
    draw.draw_severities(results, figures)
    draw_reliability(results, figures)
    galleries = _galleries(results, figures)
    return "\n".join(
        [
            _head(results),
            claims_section(results),
            _drops(results),
            *filter(None, [published_drops(results)]),
            _severities(),
            same_size_section(results),
            _white_box(results),
            pairs_section(results),
            calibration_section(results),
            _outcomes(results),
            galleries,
            _accuracies(results),
            _conditions(results),
        ]
    )


def _head(results: Results) -> str:
    params = results.params
    n_test = int(results.accuracy["n"].iloc[0])
    sources = ", ".join(f"{name} ({each.model.architecture})" for name, each in params.sources.items())
    return "\n".join(
        [
            f"# Robustness: {params.name}",
            "",
            f"{counted(len(params.seeds), 'seed')}, {n_test} test images; every image is in every number, none is "
            "excluded. Every model sees the same perturbed images. Attacks are crafted once on a third model trained "
            f"on the same split with the seed of its row, {sources}, and transferred: attacks that know the victim's "
            "weights would be adapted to each model, and models could not be compared on the same images (thesis "
            "5.2.2). Transfer alone is weak evidence of robustness, so a white-box column stands beside it as a "
            "diagnostic.",
            "",
            *(f"* {note}" for note in params.report.notes),
            *([""] if params.report.notes else []),
        ]
    )


def _drops(results: Results) -> str:
    names, confidence = [*MODELS], results.params.report.confidence
    absolute, relative = [], []
    for condition in headline_of(results):
        absolute.append(
            [condition, *(drop_interval(results, name, condition).percent(signed=True) for name in names)]
        )
        relative.append(
            [
                condition,
                *(
                    drop_interval(results, name, condition, relative=True).percent(signed=True)
                    for name in names
                ),
            ]
        )
    header = ["perturbation", *(LABELS[name] for name in names)]
    return "\n".join(
        [
            "## Accuracy drop",
            "",
            image("drops", "Accuracy drop of every model under every perturbation"),
            "Accuracy under the perturbation less accuracy on clean images, in points: mean and "
            f"{confidence:.0%} interval over seeds. The form of thesis Tables 5-1 to 5-3.",
            "",
            table(header, absolute),
            "The same in percent of the model's own clean accuracy:",
            "",
            table(header, relative),
        ]
    )


def _severities() -> str:
    return "\n".join(
        [
            "## Strength by strength",
            "",
            image("severities", "Accuracy against the strength of every perturbation"),
            "Test accuracy, mean over seeds; bands run from the lowest to the highest seed.",
            "",
        ]
    )


def _white_box(results: Results) -> str:
    params, confidence = results.params, results.params.report.confidence
    rows = []
    for name in models_of(results):
        cells = []
        for attack in params.white_box:
            mine = results.white_box[
                (results.white_box["model"] == name) & (results.white_box["attack"] == attack)
            ]
            cells.append(
                mean_interval((mine["n_correct"] / mine["n"]).tolist(), confidence=confidence).percent()
            )
            same = _transferred(results, attack)
            values = _accuracies_of(results, name, same) if same else []
            cells.append(mean_interval(values, confidence=confidence).percent() if values else "-")
        rows.append([label_of(results, name), *cells])
    header = ["model"]
    for attack in params.white_box:
        header += [f"{attack}, white box", "transferred"]
    return "\n".join(
        [
            "## White box, a diagnostic",
            "",
            "Accuracy in % when the attack is crafted on the model itself, and when the same attack is transferred "
            "from the (first) source. One that holds under transfer alone is not robust; a white-box accuracy above "
            "the transferred one is a sign of masked gradients.",
            "",
            table(header, rows),
        ]
    )


def _transferred(results: Results, attack: str) -> str | None:
    """The condition of the same attack with the same settings, from the first source."""
    wanted = results.params.white_box[attack]
    return next(
        (each.name for each in conditions_of(results) if results.params.attacks.get(each.key) == wanted),
        None,
    )


def _accuracies_of(results: Results, name: str, condition: str) -> list[float]:
    rows = results.accuracy
    found = with_accuracy(rows[(rows["model"] == name) & (rows["condition"] == condition)])
    return [float(value) for value in found["accuracy"]]


def _accuracies(results: Results) -> str:
    confidence = results.params.report.confidence
    names = models_of(results)
    means = [
        [
            each.name,
            *(
                mean_interval(_accuracies_of(results, n, each.name), confidence=confidence).percent()
                for n in names
            ),
        ]
        for each in conditions_of(results)
    ]
    return "\n".join(
        [
            "## Accuracy",
            "",
            "In percent, mean and interval over seeds; seed by seed in `tables/accuracy.csv`:",
            "",
            table(["perturbation", *(label_of(results, name) for name in names)], means),
        ]
    )


def _conditions(results: Results) -> str:
    norms = results.perturbations.groupby("condition")[["l2", "linf"]].mean()
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
    return "\n".join(["## Perturbations", "", table(header, rows)])


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
    for attack in (each.name for each in conditions_of(results) if each.kind == "attack"):
        if attack not in headline_of(results):
            continue
        for fooled, words in _FOOLED.items():
            name = f"gallery_{attack}_{fooled}"
            parts += [f"### {attack}: {words}", ""]
            drawn = draw.draw_gallery(results, seed, attack, fooled, name, figures)
            parts.append(image(name, f"{attack}: {words}") if drawn else "No image.\n")
    return "\n".join(parts)
