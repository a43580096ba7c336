"""What is claimed of robustness: thesis 5.3, and what its attacks and tables leave out.

In sources, T:1194 is a line of the thesis's text and C:358 one of the CVIU paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL, OURS_AT_SIZE, PUSHED, at_size
from pipeline.report.claims.verdicts import Claim, Family
from pipeline.report.hits import hits_of, more_hits
from pipeline.report.layers import pruned_models
from pipeline.report.results import counted_images
from pipeline.robustness.conditions import CLEAN

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.robustness.conditions import Condition
    from pipeline.uncertainty import Values

AT_CHANCE, NO_HOLD = "a net is at chance", "the attack had no hold on too many images"
_NOTHING_LEFT = "the attack leaves both models less than guessing would"
# Of fewer fooled images, over all seeds, confidences say nothing.
_LEAST_FOOLED = 10


def robust_families(results: Results) -> list[Family]:
    """Every family on robustness that this run has the numbers for."""
    found = [
        pruned_family(results),
        Family("pruned against pushed", [*_pruned_against_pushed(results)]),
        Family(
            "pushed against the original",
            [*_pushed(results)],
            "the pushed model loses less than the original",
        ),
        Family("kinds of noise", [*_noises(results)], "Poisson noise costs less"),
        Family("kinds of attack", [*_attacks(results)]),
        Family("who is fooled", [*_fooled(results)], "the original alone is fooled more often"),
        Family("confidence when fooled", [*_confidence(results)]),
        Family(
            "white box",
            [*_white_box(results)],
            "on itself the pruned model is right more often than the original",
        ),
        Family("at the same size", [*_same_size(results)], "at the same size ours loses less than others"),
    ]
    return [each for each in found if each.claims]


def doubt(results: Results, models: tuple[str, ...], *conditions: str) -> str:
    """Why no claim is made on these models under these conditions; empty where one may be."""
    if any(results.is_idle(results.untouched(each)) for each in conditions):
        return NO_HOLD
    return AT_CHANCE if any(map(results.collapsed, models)) else ""


def gain(results: Results, model: str, other: str, condition: str) -> Values:
    """How much less a model loses than the other, on the same images, seed by seed (seeds, images)."""
    return results.changes(model, condition) - results.changes(other, condition)


def _headline(results: Results) -> list[Condition]:
    by_name = {each.name: each for each in results.conditions()}
    return [by_name[name] for name in results.headline()]


def _kind(results: Results, condition: Condition) -> str:
    """`gaussian`, `poisson`, `fgsm`, `newton_fool` and so on."""
    noise, attacks = results.params.noise, results.params.attacks
    return noise[condition.key].kind if condition.kind == "noise" else attacks[condition.key].method


def _loses_less(
    results: Results, condition: str, model: str, other: str, source: str, note: str = ""
) -> Claim:
    labels = results.models() | {ORIGINAL: "the original"}
    return Claim(
        f"{condition}: {labels[model]}, loses less than {labels[other]}",
        source,
        "accuracy under it less accuracy when clean, less the same of the other",
        gain(results, model, other, condition),
        doubt=doubt(results, (model, other), condition),
        note=note,
    )


def pruned_family(results: Results) -> Family:
    """Thesis Tables 5-1 to 5-3: pruned models lose less than the original."""
    claims = []
    for each, model in product(_headline(results), pruned_models(results)):
        source = "thesis 5.3.1 (T:1180)" if each.kind == "noise" else "thesis 5.3.1 (T:1192)"
        claims.append(_loses_less(results, each.name, model, ORIGINAL, source))
    return Family("pruned against the original", claims, "the pruned model loses less than the original")


def _pruned_against_pushed(results: Results) -> Iterator[Claim]:
    for each in _headline(results):
        reverse = "the thesis finds the reverse" if _kind(results, each) == "newton_fool" else ""
        yield _loses_less(results, each.name, "parameter_first", PUSHED, "thesis 5.3.2 (T:1228)", reverse)


def _pushed(results: Results) -> Iterator[Claim]:
    for each in _headline(results):
        newton = _kind(results, each) == "newton_fool"
        source = "thesis 5.3.2 (T:1232)" if newton else "thesis Table 5-3"
        yield _loses_less(results, each.name, PUSHED, ORIGINAL, source)


def _noises(results: Results) -> Iterator[Claim]:
    noises = [each for each in _headline(results) if each.kind == "noise"]
    weak = [each.name for each in noises if _kind(results, each) == "poisson"]
    strong = [each.name for each in noises if _kind(results, each) in ("gaussian", "speckle")]
    for model, poisson, other in product((ORIGINAL, *pruned_models(results)), weak, strong):
        yield Claim(
            f"{results.labels[model]}: loses less under {poisson} than under {other}",
            "thesis 5.3.1 (T:1192)",
            "accuracy under the first less accuracy under the second",
            results.changes(model, poisson) - results.changes(model, other),
            doubt=doubt(results, (model,)),
            note="the thesis states no level of Poisson noise, this one is ours",
        )


def _attacks(results: Results) -> Iterator[Claim]:
    attacks = [each for each in _headline(results) if each.kind == "attack"]
    newton, fgsm = (
        [each for each in attacks if _kind(results, each) == kind] for kind in ("newton_fool", "fgsm")
    )
    for model, first, second in product(pruned_models(results), newton, fgsm):
        if first.source == second.source:
            yield Claim(
                f"{results.labels[model]}: gains more on the original under {first.name} than under {second.name}",
                "thesis 5.3.1 (T:1192)",
                "how much less it loses than the original under the first, less the same under the second",
                gain(results, model, ORIGINAL, first.name) - gain(results, model, ORIGINAL, second.name),
                doubt=doubt(results, (model, ORIGINAL), first.name, second.name),
            )


def _hits(results: Results, model: str, condition: str) -> Values:
    return hits_of(results.rows("accuracy", model=model, condition=condition))


def _fooled(results: Results) -> Iterator[Claim]:
    for each, model in product(_headline(results), pruned_models(results)):
        if each.kind != "attack":
            continue
        both = _hits(results, model, CLEAN) * _hits(results, ORIGINAL, CLEAN)
        after = _hits(results, model, each.name) - _hits(results, ORIGINAL, each.name)
        yield Claim(
            f"{each.name}: fools the original alone more often than it fools {results.labels[model]}, alone",
            "thesis 5.3.1 (T:1194)",
            "images that both get right when clean: share of all where the original alone is fooled, less the reverse",
            both * after,
            doubt=doubt(results, (model, ORIGINAL), each.name),
        )


def _confidence(results: Results) -> Iterator[Claim]:
    """T:1208 and T:1210, from the softmax confidences image by image; none without them."""
    for each, model in product(_headline(results), pruned_models(results)):
        if each.kind != "attack" or not results.confidences:
            continue
        right = {(m, c): _hits(results, m, c) for m, c in product((ORIGINAL, model), (CLEAN, each.name))}
        fooled = {m: right[m, CLEAN] * (1 - right[m, each.name]) for m in (ORIGINAL, model)}
        alone = fooled[model] * right[ORIGINAL, CLEAN] * right[ORIGINAL, each.name]
        before, after = (
            {m: results.confidence(m, condition) for m in (ORIGINAL, model)}
            for condition in (CLEAN, each.name)
        )
        few = f"fewer than {_LEAST_FOOLED} images"
        doubted = doubt(results, (model, ORIGINAL), each.name)
        enough = min(mask.sum() for mask in fooled.values()) >= _LEAST_FOOLED
        wrong = [_among(after[m], fooled[m]) for m in (ORIGINAL, model)]
        yield Claim(
            f"{each.name}: {results.labels[model]}, is less confident when fooled than the original",
            "thesis 5.3.1 (T:1208)",
            "mean softmax confidence of the original on images that fooled it, less that of the pruned on its own",
            wrong[0] - wrong[1],
            unit=float(max(1 / max(mask.mean(), 1e-12) for mask in fooled.values())),
            doubt=doubted or ("" if enough else few),
            note=f"{fooled[ORIGINAL].sum():.0f} and {fooled[model].sum():.0f} images fooled, over all seeds",
        )
        yield Claim(
            f"{each.name}: where it alone is fooled, {results.labels[model]}, was less sure of the clean image",
            "thesis 5.3.1 (T:1210)",
            "clean confidence of the original less that of the pruned, on images that fooled the pruned alone",
            _among(before[ORIGINAL] - before[model], alone),
            unit=float(1 / max(alone.mean(), 1e-12)),
            doubt=doubted or ("" if alone.sum() >= _LEAST_FOOLED else few),
            note=f"{alone.sum():.0f} images, over all seeds",
        )


def _among(values: Values, mask: Values) -> Values:
    """Values (seeds, images) whose mean is that of `values` where `mask` is 1: a ratio of means, linearised."""
    share = max(float(mask.mean()), 1e-12)
    ratio = float((values * mask).mean()) / share
    found: Values = ratio + (values - ratio) * mask / share
    return found


def _white_box(results: Results) -> Iterator[Claim]:
    for attack, model in product(results.params.white_box, pruned_models(results)):
        mine, original = (results.rows("white_box", model=each, attack=attack) for each in (model, ORIGINAL))
        idle = any(results.is_idle(counted_images(rows)) for rows in (mine, original))
        guessing = 1 / len(results.dataset["classes"])
        felled = all(rows["accuracy"].mean() < guessing for rows in (mine, original))
        why = NO_HOLD if idle else _NOTHING_LEFT if felled else ""
        yield Claim(
            f"{attack} crafted on the model itself: {results.labels[model]}, is right more often than the original",
            "ours, after CVIU 6 (C:409)",
            "accuracy under the attack on itself, less the original's under the attack on the original",
            more_hits(mine, original),
            doubt=why or doubt(results, (model, ORIGINAL)),
        )


def _same_size(results: Results) -> Iterator[Claim]:
    lineup = results.params.lineup
    for condition, name in product(results.headline(), lineup.competitors if lineup else ()):
        yield _loses_less(results, condition, OURS_AT_SIZE, at_size(name), "ours")
