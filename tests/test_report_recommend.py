"""Which model to take, and the claims, on made-up tables in which something is rotten: sentence and verdicts."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_builders import results_with, with_hits
from test_report_claims import change
from test_report_robustness import Hits, even, hits_of, results_of, seeds
from tiny_params import Change, params_of

from pipeline.compared import MODELS, ORIGINAL, OURS, PUSHED
from pipeline.report.claims.page import claims_section, claims_table, robustness_in_short
from pipeline.report.claims.verdicts import TOGETHER
from pipeline.report.hits import with_accuracy
from pipeline.report.recommend import metrics_of, recommendation_table, sentences, tables_of
from pipeline.report.results import Results
from pipeline.robustness.conditions import CLEAN
from pipeline.uncertainty import counts_of

N = 1000
PARAMS = {"base": 60_000, "accuracy_first": 30_000, "parameter_first": 10_000}
METHODS = (OURS, "l1", "han", "scratch")
NO_WORSE = "pruned, parameter first: is less than 1.00 points worse than the original"
# Right images by seed: so many of the first, or a mask.
Right = Mapping[str, list[Any]]
EQUAL: Right = MappingProxyType({})


def made_up(
    n_seeds: int = 3, *more: Change, models: Right = EQUAL, methods: Right = EQUAL, hits: Hits = even
) -> Results:
    """Everyone is right on the first 950 of 1000 images, but for these; hits: under perturbations."""
    changes = [("select.max_drop", 0.01), ("report.equivalence_margin", 0.01)]
    names = [*dict.fromkeys((*METHODS, *methods))]
    changes += [("compare.competitors", names[1:])]  # type: ignore[list-item]
    params = params_of(seeds(n_seeds), *changes, *more)
    scores, comparison = list[dict[str, Any]](), list[dict[str, Any]]()
    for seed in range(n_seeds):
        for model in MODELS:
            right = _mask(models, model, seed)
            row = {"seed": seed, "model": model, "params": PARAMS.get(model, 100_000), "flops": 1_000}
            scores += [{**row, "split": split, **counts_of(right)} for split in ("validation", "test")]
        for method, step in ((method, step) for method in (*names, "resnet6") for step in (0, 1)):
            if (method, step) != ("resnet6", 0):
                row = {
                    "seed": seed,
                    "method": method,
                    "step": step,
                    "params": 12_000 // (step + 1),
                    "flops": 10,
                }
                right = _mask(methods, method, seed)
                counts = counts_of(right, "test_") | counts_of(right, "validation_")
                comparison.append({**row, "epochs": 9, "collapsed": 0, "retried": 0, **counts})
    found = results_of(params, hits)
    tables = {"scores": pd.DataFrame(scores), "comparison": pd.DataFrame(comparison)}
    found.tables.update({name: results_with(params, tables).tables[name] for name in tables})
    return found


def _mask(right: Right, name: str, seed: int) -> Any:
    which = right[name][seed] if name in right else 950
    return np.arange(N) < which if isinstance(which, int) else which


def verdicts(results: Results, family: str) -> set[str]:
    table = claims_table(results)
    return set(table[table["family"].str.startswith(family)]["verdict"])


CONTEST, FLOW, PRUNED = (
    "ours against others at ",
    "pushing and pruning",
    "pruned against the original",
)
OTHERS = (
    "L1 norm (Li et al.) (ours less it {0} points{1}) and single weights (Han et al.) (ours less it {0} points{1}) and "
    "ours, trained from scratch (ours less it {0} points{1})"
)


def recommended(results: Results) -> str:
    return " ".join(sentences(results))


def at_size(results: Results) -> str:
    """The sentence on who does as well at the compared size."""
    (found,) = (each for each in sentences(results) if each.startswith("At 12,000 parameters, "))
    return found


def test_all_equal() -> None:
    results = made_up()
    assert verdicts(results, CONTEST) == {"equivalent"}
    table = claims_table(results).set_index("claim")
    assert table.loc[NO_WORSE, "verdict"] == "supported"
    assert set(table[(table["family"] == FLOW) & (table.index != NO_WORSE)]["verdict"]) == {"equivalent"}
    # Two hundred images do not show that less than two of them differ.
    assert verdicts(results, PRUNED) == {"undecided"}
    assert recommended(results) == (
        "Take pruned, parameter first (the smallest within 1.00 points of the original on validation): 10,000 "
        "parameters (10.00 % of the original) and 1,000 FLOPs, means over 3 seeds. It is right on 95.00 [93.47, 96.19] "
        "% of the test images, +0.00 [-0.28, +0.28] points against the original (at most 1.00 worse). At 12,000 "
        "parameters, the compared size nearest to it, ours has "
        f"95.00 [93.47, 96.19] %: {OTHERS.format('+0.00', '')} are as good, none of 3 others behind. At worst "
        "-10.00 points under noise (gaussian, the original -10.00) and -45.00 points under attack (pgd on the model "
        "itself, the original -45.00)."
    )


def test_ours_is_worse_everywhere() -> None:
    ours = {name: [850, 852, 851] for name in ("pushed", "accuracy_first", "parameter_first")}
    worse = {(name, each): [110] * 3 for name in ours for each in ("fgsm", "gaussian")}
    results = made_up(models=ours, methods={OURS: [840, 842, 841]}, hits=hits_of(worse))
    assert verdicts(results, CONTEST) == verdicts(results, FLOW) == {"refuted"}
    table = claims_table(results).set_index("claim")
    for model in ("accuracy first", "parameter first"):
        for condition, verdict in (("fgsm", "refuted"), ("gaussian", "refuted"), ("speckle", "undecided")):
            assert (
                table.loc[f"{condition}: pruned, {model}, loses less than the original", "verdict"] == verdict
            )
    found = recommended(results)
    assert found.startswith(
        "Keep the original: 100,000 parameters and 1,000 FLOPs, means over 3 seeds. It is right on 95.00"
    )
    for model in ("accuracy first", "parameter first"):
        assert f". Pruned, {model}, loses more than 1.00 points (-9.90 [" in found
    compared = at_size(results)
    assert compared.startswith(
        "At 12,000 parameters, the compared size nearest to the smallest pruned model, ours has 84.10 ["
    )
    assert compared.endswith(
        f" %: {OTHERS.format('-10.90', ', ahead at all 2 sizes')} are surely better, none of 3 others behind."
    )
    (chosen,) = recommendation_table(results).query("chosen")["model"]
    assert chosen == ORIGINAL


@pytest.mark.parametrize("n_collapsed", [1, 3])
def test_a_model_at_chance_is_passed_over_and_no_ground_of_a_claim(n_collapsed: int) -> None:
    counts = [100] * n_collapsed + [950] * (3 - n_collapsed)
    results = made_up(models={"parameter_first": counts})
    for seed in range(n_collapsed):
        change(
            results, "accuracy", {"model": "parameter_first", "condition": CLEAN, "seed": seed}, collapsed=1
        )
    found = recommended(results)
    assert found.startswith("Take pruned, accuracy first: 30,000 parameters (30.00 % of the original)")
    assert f". Pruned, parameter first, is at chance in {n_collapsed} of 3 seeds." in found
    table = claims_table(results)
    about = table[table["claim"].str.contains("parameter first")]
    assert len(about) > 15
    assert set(about["verdict"]) == {"no claim"}
    assert about["effect"].isna().all()


@pytest.mark.parametrize("n_collapsed", [1, 3])
def test_a_competitor_at_chance_is_not_beaten(n_collapsed: int) -> None:
    results = made_up()
    for seed in range(n_collapsed):
        change(results, "comparison", {"method": "han", "step": 0, "seed": seed}, collapsed=1)
        results.tables["comparison"].loc[lambda table: table["collapsed"] == 1, "test_n_correct"] = 100
    found = recommended(results)
    assert (
        "L1 norm (Li et al.) (ours less it +0.00 points) and ours, trained from scratch (ours less it +0.00 points) "
        "are as good, " in found
    )
    assert at_size(results).endswith(
        "none of 3 others behind, collapsed and not compared single weights (Han et al.)."
    )
    table = claims_table(results)
    about = table[table["claim"].str.contains("At 12,000 .*Han")]
    assert about["verdict"].tolist() == ["no claim"]
    (gap,) = table[table["family"] == "the smaller, the clearer"].to_dict("records")
    assert "mean of 1 methods" in gap["test"]
    assert gap["note"].endswith("left out, as a net collapsed: single weights (Han et al.)")
    assert "han_step0" not in set(recommendation_table(results)["model"])


def test_where_ours_is_at_chance_nothing_is_compared() -> None:
    results = change(made_up(), "comparison", {"method": OURS, "step": 0, "seed": 1}, collapsed=1)
    assert at_size(results).endswith(
        "At 12,000 parameters, the compared size nearest to it, ours collapsed and nothing is compared."
    )


def test_a_variant_of_ours_has_families_of_its_own_and_no_say_in_the_averages() -> None:
    worse: Right = {"l1": [920, 921, 922]}
    variant = {"utility": "deconvolution", "widths": "uniform", "trace_images_per_class": 2}
    both = made_up(3, ("compare.variants", {"other": variant}), methods=worse)
    table = both.tables["comparison"]
    as_l1 = table[table["method"] == "l1"].assign(method="ours_other")
    both.tables["comparison"] = pd.concat([table, as_l1])
    before, claims = claims_table(made_up(methods=worse)), claims_table(both)
    families = claims[claims["family"].str.startswith("ours, other, against others at ")]
    assert families.groupby("family")["claim"].count().tolist() == [3, 3]
    verdict = families.set_index("claim")["verdict"]
    assert set(verdict[verdict.index.str.endswith("L1 norm (Li et al.)")]) == {"equivalent"}
    assert set(verdict[verdict.index.str.endswith("single weights (Han et al.)")]) == {"refuted"}
    averages = [each[each["family"] == TOGETHER]["test"].tolist() for each in (before, claims)]
    assert averages[0] == averages[1]


def test_the_test_images_have_a_veto_and_choose_nothing() -> None:
    """Parameter first is 1.5 points worse by the mean, which is not surely more than 1; accuracy first is no worse."""
    found = recommended(made_up(models={"parameter_first": [930, 935, 940]}))
    assert found.startswith("Take pruned, parameter first")
    assert "-1.50 [" in found
    assert " points against the original (undecided whether at most 1.00 worse). " in found


def test_where_a_seed_has_no_sample_within_the_drop_on_validation_the_original_is_kept() -> None:
    """Whatever the test images say, which choose nothing."""
    results = made_up(models={"parameter_first": [990, 990, 990]})
    assert recommended(results).startswith("Take pruned, parameter first")
    results.selections.update({(PUSHED, seed): {"within_drop": seed != 1} for seed in (0, 1, 2)})
    assert recommended(results).startswith("Keep the original: ")
    assert ". In 1 of 3 seeds no pruned model came within 1.00 points on validation." in recommended(results)


def test_of_many_that_are_ahead_the_sentence_names_the_two_that_are_farthest() -> None:
    ahead = {"l1": [960] * 3, "han": [963] * 3, "scratch": [969] * 3, "fpgm": [966] * 3}
    found = recommended(made_up(methods={OURS: [950] * 3} | ahead))
    ahead_by = re.findall(r"ours less it (.*?) points", found)
    assert ahead_by == ["-1.90", "-1.60"]
    assert ", ahead at all 2 sizes) and FPGM (He et al.) (" in found
    assert ") and 2 more are " in found


def test_one_seed_decides_nothing() -> None:
    results = made_up(1, models={"parameter_first": [985]}, methods={"l1": [400], "scratch": [999]})
    assert set(claims_table(results)["verdict"]) == {"undecided"}
    found = recommended(results)
    assert "1,000 FLOPs, one seed. " in found
    assert (
        "+3.50 [+2.33, +4.67] points against the original (at most 1.00 worse, of this seed's nets alone). "
        in found
    )
    assert (
        "ours, trained from scratch (ours less it -4.90 points, ahead at all 2 sizes) is ahead by the mean "
        "(undecided), " in found
    )
    assert (
        "single weights (Han et al.) (ours less it +0.00 points) is level by the mean (undecided), " in found
    )
    assert at_size(results).endswith("1 of 3 others behind, 0 of them surely.")
    assert "surely better" not in found


def without(first: int, *, gained: int, lost: int) -> Any:
    """The first 950 right, but for `gained` more and `lost` fewer, which are others in each seed."""
    right = np.arange(N) < 950
    right[950 + first * gained : 950 + (first + 1) * gained] = True
    right[first * lost : (first + 1) * lost] = False
    return right


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 0), (10, 5)])
def test_two_seeds_with_equal_counts_on_different_images_decide_nothing(gained: int, lost: int) -> None:
    better = [without(seed, gained=gained, lost=lost) for seed in (0, 1)]
    results = made_up(2, models={"pushed": better, "accuracy_first": better}, methods={OURS: better})
    table = claims_table(results)
    assert set(table[table["claim"] != NO_WORSE]["verdict"]) <= {"undecided", "equivalent"}
    of_ours = table[table["family"].str.startswith(CONTEST)]
    assert of_ours["effect"].tolist() == pytest.approx([(gained - lost) / N] * 6)
    assert (of_ours["high"] - of_ours["low"] > 0.005).all()
    assert "surely better" not in recommended(results)


@pytest.mark.parametrize("n_seeds", [2, 3, 10])
@pytest.mark.parametrize("more", [1, -1])
def test_the_same_single_image_in_every_seed_supports_nothing(n_seeds: int, more: int) -> None:
    models = {name: [950 + more] * n_seeds for name in ("pushed", "accuracy_first", "parameter_first")}
    under = {
        (name, each): [170 + more] * n_seeds
        for name in models
        for each in ("fgsm", "gaussian", "newton_fool")
    }
    results = made_up(n_seeds, models=models, methods={OURS: [950 + more] * n_seeds}, hits=hits_of(under))
    table = claims_table(results)
    assert set(table[table["claim"] != NO_WORSE]["verdict"]) <= {"undecided", "equivalent"}
    assert sum(table["effect"] * more > 0) > 20
    assert "surely better" not in recommended(results)


@pytest.mark.parametrize("n", [1, 999])
def test_another_number_of_images_is_compared_with_nothing(n: int) -> None:
    results = made_up()
    table = results.tables["comparison"]
    other = (
        table[table["method"] == "l1"]
        .drop(columns=["test_hits", "validation_hits"])
        .assign(test_n=n, test_n_correct=n)
    )
    rows = pd.concat([table[table["method"] != "l1"], with_accuracy(with_hits("comparison", other))])
    results.tables["comparison"] = rows
    with pytest.raises(ValueError, match=f"hits on the same {n} images, got 1000"):
        recommended(results)


def test_each_claim_says_its_own_number_of_images() -> None:
    table = claims_table(made_up(2))
    n_images = table.groupby("family")["n_images"].agg(set).to_dict()
    assert n_images[f"{CONTEST}6,000 parameters"] == n_images[FLOW] == {N}
    assert n_images[PRUNED] == n_images["white box"] == {200}
    assert set(table["n_seeds"]) == {2}


def test_an_attack_that_left_images_untouched_is_no_ground_of_a_claim() -> None:
    best = hits_of({("accuracy_first", each): [190] * 3 for each in ("fgsm", "newton_fool")})
    idle = {"n_attacked": 190, "n_untouched": 120, "n_vanished": 120, "n_idle": 120}
    results = change(made_up(hits=best), "crafted", {"attack": "fgsm"}, **idle)
    table = claims_table(results)
    about = table[table["claim"].str.contains("fgsm")]
    assert len(about) > 6
    assert set(about["verdict"]) == {"no claim"}
    assert "supported" in set(table[table["claim"].str.startswith("newton_fool")]["verdict"])


def test_a_saturated_net_is_no_ground_of_a_claim_and_its_white_box_not_its_worst() -> None:
    """By default everyone is right on 100 of 200 under PGD on itself: the worst of all, -45 points."""
    idle = {"n_attacked": 190, "n_untouched": 190, "n_vanished": 190, "n_idle": 190}
    results = change(made_up(), "white_box", {"model": "parameter_first"}, **idle)
    table = claims_table(results)
    of_white_box = table[table["family"] == "white box"].set_index("claim")["verdict"]
    mine = of_white_box.index.str.contains("parameter first")
    assert set(of_white_box[mine]) == {"no claim"}
    assert set(of_white_box[~mine]) == {"undecided"}
    assert "and -10.00 points under attack (fgsm, the original -10.00)" in recommended(results)


def test_on_itself_the_pruned_model_is_held_against_the_original_on_itself() -> None:
    results = made_up()
    rows = {("original", 0): 150, ("original", 1): 151, ("original", 2): 152}
    for (model, seed), n in rows.items():
        hits = pd.Series([np.arange(200) < n] * len(results.tables["white_box"]))
        change(results, "white_box", {"model": model, "seed": seed}, n_correct=n, hits=hits)
    table = claims_table(results)
    found = table[table["family"] == "white box"]
    assert found["effect"].tolist() == pytest.approx([-51 / 200] * 2)
    assert set(found["verdict"]) == {"refuted"}


def confident(results: Results, *, model: str, fooled: list[int]) -> Results:
    """FGSM fools the original on images 100 to 149, and the model on these; confidences are 0.9 and 0.6."""
    for seed in (0, 1, 2):
        for name, wrong in ((ORIGINAL, range(100, 150)), (model, fooled)):
            # The last five it gets right under the attack alone: it was not there to be fooled.
            mask = (np.arange(200) < (190 if name == ORIGINAL else 195)) & ~np.isin(np.arange(200), [*wrong])
            chosen = {"model": name, "condition": "fgsm", "seed": seed}
            hits = pd.Series([mask] * len(results.tables["accuracy"]))
            change(results, "accuracy", chosen, n_correct=int(mask.sum()), hits=hits)
        for name in (ORIGINAL, "accuracy_first", "parameter_first"):
            sure = 0.9 if name == ORIGINAL else 0.6
            for condition in (CLEAN, "fgsm", "newton_fool"):
                results.confidences[seed, condition, name] = np.full(200, sure)
    return results


def test_who_is_fooled_and_how_sure_they_were_by_hand() -> None:
    fooled = [*range(0, 15), *range(100, 110)]
    results = confident(made_up(), model="parameter_first", fooled=fooled)
    table = claims_table(results).set_index("claim")
    more = table.loc["fgsm: fools the original alone more often than it fools pruned, parameter first, alone"]
    # Forty images fool the original alone and fifteen the model alone, of 200.
    assert more["effect"] == pytest.approx(25 / 200)
    sure = table.loc["fgsm: pruned, parameter first, is less confident when fooled than the original"]
    assert (sure["effect"], sure["verdict"]) == (pytest.approx(0.3), "supported")
    assert sure["note"] == "150 and 75 images fooled, over all seeds"
    before = table.loc[
        "fgsm: where it alone is fooled, pruned, parameter first, was less sure of the clean image"
    ]
    assert before["effect"] == pytest.approx(0.3)
    assert before["note"].endswith("45 images, over all seeds")
    # Nobody else is fooled alone: nothing is said of their confidence.
    other = table.loc[
        "newton_fool: where it alone is fooled, pruned, accuracy first, was less sure of the clean image"
    ]
    assert (other["verdict"], other["note"]) == ("no claim", "fewer than 10 images; 0 images, over all seeds")


def test_what_few_images_say_alike_decides_nothing() -> None:
    """Five of 200 images in each seed, all of them 0.3 surer in the original."""
    results = confident(made_up(), model="parameter_first", fooled=[0, 1, 2, 3, 4])
    table = claims_table(results).set_index("claim")
    few = table.loc[
        "fgsm: where it alone is fooled, pruned, parameter first, was less sure of the clean image"
    ]
    assert (few["effect"], few["verdict"]) == (pytest.approx(0.3), "undecided")
    assert few["note"] == "15 images, over all seeds"
    assert few["low"] < -0.2


def test_the_kinds_of_noise_and_of_attack_are_compared_on_one_model() -> None:
    hits = hits_of({(ORIGINAL, "poisson"): [188] * 3, ("accuracy_first", "newton_fool"): [185] * 3})
    table = claims_table(made_up(hits=hits)).set_index("claim")
    noise = table.loc["original: loses less under poisson than under gaussian"]
    assert (noise["effect"], noise["verdict"]) == (pytest.approx(18 / 200), "supported")
    other = table.loc["pruned, accuracy first: gains more on the original under newton_fool than under fgsm"]
    assert other["effect"] == pytest.approx(15 / 200)


def test_the_table_and_the_section_are_of_the_same_claims() -> None:
    results = made_up()
    table = tables_of(results)["claims"]
    text = claims_section(results, claims_table(results))
    assert [*table.columns[:13]] == [
        *("family", "claim", "source", "test", "effect", "low", "high", "p", "p_holm", "verdict"),
        *("n_seeds", "n_images", "note"),
    ]
    assert table["claim"].is_unique
    for row in table.to_dict("records"):
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(f"| {row['claim'].replace('_', chr(92) + '_')} |")
        ]
        assert f"| **{row['verdict']}**" in line
    assert f"{len(table)} claims: " in text
    for family in table["family"].unique():
        assert f"\n### {family.capitalize()}\n" in text


def test_the_table_of_models_has_those_worth_a_row() -> None:
    results = made_up(
        models={"parameter_first": [949, 948, 947]}, methods={"l1": [955] * 3, "han": [900] * 3}
    )
    table = recommendation_table(results).set_index("model")
    main = ["original", "control", "pushed", "accuracy_first", "parameter_first"]
    assert [*table.index] == [*main, "ours_step0", "l1_step0", "scratch_step0"]
    assert table["chosen"].sum() == 1
    row = table.loc["parameter_first"]
    assert bool(row["chosen"])
    assert (row["params"], row["test_accuracy"], row["difference"]) == pytest.approx((10_000, 0.948, -0.002))
    assert row["difference_low"] < -0.002 < row["difference_high"]
    assert row["validation_accuracy"] == pytest.approx(0.948)
    assert row["validation_low"] < 0.948 < row["validation_high"]
    metrics = metrics_of(recommendation_table(results))
    assert (metrics["take"], [*metrics["models"]]) == ("parameter_first", [*table.index])
    assert metrics["models"]["parameter_first"]["difference"] == pytest.approx(-0.002)
    assert "difference" not in metrics["models"]["original"]
    assert (row["worst_noise_drop"], row["worst_attack"]) == (pytest.approx(-0.1), "pgd on the model itself")
    assert np.isnan(table.loc["original", "difference"])
    assert table["params"].to_csv(index=False).split() == [
        "params",
        *["100000"] * 3,
        "30000",
        "10000",
        *["12000"] * 3,
    ]
    assert (table.loc["l1_step0", "epochs"], table.loc["l1_step0", "worst_attack_drop"]) == (
        9,
        pytest.approx(-0.45),
    )
    # Nobody is attacked at this size but the lineup.
    assert np.isnan(table.loc["scratch_step0", "worst_attack_drop"])


def test_robustness_begins_with_what_its_families_say_on_average() -> None:
    found = claims_table(made_up(3))
    text = robustness_in_short(found)
    together = found[found["family"] == TOGETHER]
    said = [claim for claim in together["claim"] if claim in text]
    assert any("the pruned model loses less than the original" in claim for claim in said)
    effects = together[together["claim"].isin(said)]["effect"]
    assert all(f": {100 * effect:+.2f} [" in text for effect in effects)
    assert text.startswith("**In short**")
    assert robustness_in_short(found[found["family"] != TOGETHER]) == ""
