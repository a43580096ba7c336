"""The comparison's tables from hand-made counts: cells, bold differences, verdicts, labels, fixed nets."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_builders import results_with
from scipy.stats import t
from tiny_params import Change, params_of

from pipeline.compared import MODELS, OURS
from pipeline.params.pruning import FILTER_CRITERIA
from pipeline.report.charts.curves import curves_figure
from pipeline.report.charts.sizes import tracing_figure
from pipeline.report.charts.trade_off import differences, trade_off
from pipeline.report.comparison import comparison_section, tracing_section
from pipeline.report.curves import curves_section
from pipeline.report.results import Results

N = 1000
# Hits of 1000 by seed, for both sizes: l1 is better by the same ten images everywhere, then worse without doubt;
# single weights are worse without doubt, then undecided; from scratch undecided twice.
HITS: dict[str, list[list[int]]] = {
    OURS: [[950, 952, 948], [900, 905, 895]],
    "l1": [[960, 962, 958], [880, 886, 874]],
    "han": [[920, 921, 919], [900, 904, 899]],
    "scratch": [[951, 950, 950], [898, 908, 890]],
}
PARAMS = [5000, 2500]
FIXED = [701, 700, 702]


def rows(method: str, step: int, hits: list[int], *, params: int, epochs: int = 9) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "method": method, "step": step, "params": params, "flops": 10 * params}
        | {"epochs": epochs, "validation_n": 500, "validation_n_correct": 1}
        | {"test_n": N, "test_n_correct": correct}
        for seed, correct in enumerate(hits)
    ]


def comparison(n_seeds: int) -> pd.DataFrame:
    table = [
        row
        for method, steps in HITS.items()
        for step, hits in enumerate(steps)
        for row in rows(method, step, hits[:n_seeds], params=PARAMS[step])
    ]
    table += rows("resnet6", 1, FIXED[:n_seeds], params=1234, epochs=11)
    return pd.DataFrame(table)


def scores(n_seeds: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "seed": seed,
            "model": model,
            "split": "test",
            "n": N,
            "n_correct": 970,
            "params": 9000,
            "flops": 1,
        }
        for seed in range(n_seeds)
        for model in MODELS
    )


def results(n_seeds: int = 3, *changes: Change, table: pd.DataFrame | None = None) -> Results:
    """What the comparison reads; every other table is empty."""
    return results_with(
        params_of(("seeds", list(range(n_seeds))), *changes),
        {"comparison": comparison(n_seeds) if table is None else table, "scores": scores(n_seeds)},
    )


def tables(section: str) -> list[dict[str, list[str]]]:
    """Every table of a section: the cells of each row by its first cell, the header's too."""
    found: list[dict[str, list[str]]] = []
    inside = False
    for line in section.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if not inside:
                found.append({})
            if not set(cells[0]) <= set(":- "):
                found[-1][cells[0].strip()] = [cell.strip() for cell in cells[1:]]
            inside = True
        else:
            inside = False
    return found


def means(cells: list[str]) -> list[str]:
    """The cells without their intervals, which `test_uncertainty.py` looks at."""
    return [re.sub(r" \[.*?\]", "", cell) for cell in cells]


def test_accuracies_are_means_over_seeds_with_their_intervals() -> None:
    accuracies = {name: means(cells) for name, cells in tables(comparison_section(results()))[0].items()}
    whole = tables(comparison_section(results()))[0]["push and prune (ours)"]
    assert all(re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", cell) for cell in whole)
    assert accuracies["method"] == ["5,000 parameters", "2,500 parameters"]
    assert accuracies["push and prune (ours)"] == ["95.00", "90.00"]
    assert accuracies["L1 norm (Li et al.)"] == ["96.00", "88.00"]
    assert accuracies["single weights (Han et al.)"] == ["92.00", "90.10"]
    # Ours first, the others as the params name them.
    ours, *others = [*accuracies][1:]
    assert ours == "push and prune (ours)"
    assert sorted(others) == [
        "L1 norm (Li et al.)",
        "ours, trained from scratch",
        "single weights (Han et al.)",
    ]


def test_differences_are_paired_by_seed_and_bold_where_the_interval_leaves_out_zero() -> None:
    differences = tables(comparison_section(results()))[1]
    assert "push and prune (ours)" not in differences
    # Ten images in every seed, no spread of seeds: Student's interval of 1,002 images, two of them added. By the
    # builder's hits l1's are images 950 to 959, 952 to 961 and 948 to 957.
    values = np.mean([[start <= i < start + 10 for i in range(1000)] for start in (950, 952, 948)], axis=0)
    values = [*values, 1, -1]
    half = float(t.ppf(0.975, 1001) * np.std(values, ddof=1) / np.sqrt(1002))
    ten = f"**-1.00 [{-1 - 100 * half:+.2f}, {-1 + 100 * half:+.2f}]**"
    assert differences["L1 norm (Li et al.)"][0] == ten
    # 20, 19, 21.
    assert means(differences["L1 norm (Li et al.)"]) == ["**-1.00**", "**+2.00**"]
    # 30, 31, 29; then 0, 1, -4.
    assert means(differences["single weights (Han et al.)"]) == ["**+3.00**", "-0.10"]
    # -1, 2, -2; then 2, -3, 5.
    assert means(differences["ours, trained from scratch"]) == ["-0.03", "+0.13"]


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = comparison(3).sample(frac=1, random_state=3)
    assert shuffled["seed"].tolist() != comparison(3)["seed"].tolist()
    assert comparison_section(results(table=shuffled)) == comparison_section(results())


def test_the_verdict_counts_comparisons_that_are_decided() -> None:
    section = comparison_section(results())
    assert (
        "Of 6 comparisons ours is better in 2, worse in 1, as good within 1.00 points in 2 and undecided at this "
        "number of seeds and images in 1; 0 with" in section
    )
    assert "By the means alone it is ahead in 3, behind in 3 and level in 0." in section
    assert (
        "* 5,000 parameters: best is L1 norm (Li et al.) (96.00 %), ours is number 3 of 4 (95.00 %)"
        in section
    )
    assert (
        "* 2,500 parameters: best is single weights (Han et al.) (90.10 %), ours is number 2 of 4 (90.00 %)"
        in section
    )


def test_equal_means_put_ours_first() -> None:
    table = comparison(3)
    table = pd.concat(
        [
            table[table["method"].isin([OURS, "resnet6"])],
            *(table[table["method"] == OURS].assign(method=name) for name in ("l1", "han", "scratch")),
        ]
    )
    section = comparison_section(results(table=table))
    # A thousand images are enough to say so of six comparisons.
    assert "ours is better in 0, worse in 0, as good within 1.00 points in 6 and undecided" in section
    assert "By the means alone it is ahead in 0, behind in 0 and level in 6." in section
    assert section.count("best is push and prune (ours)") == 2
    assert section.count("ours is number 1 of 4") == 2
    assert set(means(tables(section)[1]["L1 norm (Li et al.)"])) == {"+0.00"}


def test_a_single_seed_decides_nothing_and_has_the_intervals_of_its_images() -> None:
    section = comparison_section(results(1))
    accuracies, differences, fixed = tables(section)
    assert means(accuracies["push and prune (ours)"]) == ["95.00", "90.00"]
    assert means(differences["single weights (Han et al.)"]) == ["+3.00", "+0.00"]
    assert "**" not in section
    assert "one seed, and its 95% interval, which is that of the images alone" in section
    assert "as good within 1.00 points in 0 and undecided at this number of seeds and images in 6" in section
    assert means(fixed["resnet6"])[-1] == "70.10"


def test_fixed_nets_have_a_table_of_their_own_and_no_part_in_the_contest() -> None:
    section = comparison_section(results())
    accuracies, differences, fixed = tables(section)
    assert "resnet6" not in accuracies
    assert "resnet6" not in differences
    assert fixed["net"] == ["from", "parameters", "FLOPs", "epochs", "test, %"]
    assert means(fixed["resnet6"]) == ["fresh weights", "1,234", "12,340", "11", "70.10"]
    assert "of 4 (" in section


def test_without_fixed_nets_there_is_no_table_of_them() -> None:
    section = comparison_section(results(3, ("compare.fixed_nets", {})))
    assert "Fixed nets" not in section
    assert len(tables(section)) == 2


LABELS = {
    "l1": "L1 norm (Li et al.)",
    "taylor": "first-order Taylor (Molchanov et al.)",
    "activation_mean": "mean activation",
    "activation_variance": "activation variance",
    "apoz": "APoZ (Hu et al.)",
    "fpgm": "FPGM (He et al.)",
    "random": "random filters",
    "lda_after_the_fact": "deep LDA after the fact",
}
LABELS |= {f"{name}_own": f"{label}, own widths" for name, label in LABELS.items()}


@pytest.mark.parametrize("criterion", FILTER_CRITERIA)
def test_every_criterion_has_a_label(criterion: str) -> None:
    table = comparison(3).replace({"method": {"l1": criterion}})
    changes: list[Change] = [("compare.competitors", [criterion]), ("lineup.competitors", [])]
    section = comparison_section(results(3, *changes, table=table))
    assert means(tables(section)[0][LABELS[criterion]]) == ["96.00", "88.00"]


def test_a_variant_of_ours_stands_beside_ours() -> None:
    table = comparison(3).replace({"method": {"l1": "ours_saliency"}})
    variants = {"saliency": {"utility": "saliency", "widths": "global", "trace_images_per_class": 3}}
    changes: list[Change] = [
        ("compare.variants", variants),
        ("compare.competitors", []),
        ("lineup.competitors", []),
    ]
    section = comparison_section(results(3, *changes, table=table))
    assert means(tables(section)[0]["ours, saliency"]) == ["96.00", "88.00"]


def test_without_competitors_ours_and_the_fixed_nets_stand_alone() -> None:
    changes: list[Change] = [("compare.competitors", []), ("lineup.competitors", [])]
    accuracies, fixed = tables(comparison_section(results(3, *changes)))
    assert list(accuracies) == ["method", "push and prune (ours)"]
    assert list(fixed) == ["net", "resnet6"]


def test_where_nothing_is_compared_there_is_no_section_and_no_figure() -> None:
    found = results(3, ("compare", None), ("lineup", None))
    assert comparison_section(found) == ""
    assert differences(found) is None


def test_the_text_says_what_the_params_say() -> None:
    section = comparison_section(results(3, ("compare.retraining.epochs", 17), ("report.confidence", 0.9)))
    assert "17 epochs" in section
    assert "mean and 90% interval over 3 seeds and their images" in section
    wider = tables(comparison_section(results()))[0]["push and prune (ours)"]
    assert means(wider) == means(tables(section)[0]["push and prune (ours)"])
    assert wider != tables(section)[0]["push and prune (ours)"]


def test_a_method_that_lacks_a_seed_is_not_compared_with_other_seeds() -> None:
    table = comparison(3)
    lacking = table[~((table["method"] == "l1") & (table["seed"] == 1))]
    with pytest.raises(ValueError, match=r"seeds \[0, 2\], got \[0, 1, 2\]"):
        comparison_section(results(table=lacking))


def drawn(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a chart that are somebody's."""
    return [row for rows in spec["datasets"].values() for row in rows if "who" in row]


def recommended() -> pd.DataFrame:
    return pd.DataFrame({"model": ["original", "parameter_first"], "chosen": [False, True]})


def test_the_first_figure_has_every_method_at_every_size_and_rings_what_is_chosen() -> None:
    figure = trade_off(results(), recommended())
    (spec,) = figure.specs()
    shown = {(row["name"], round(row["params"])): row for row in drawn(spec)}
    for method, per_size in HITS.items():
        for params, hits in zip(PARAMS, per_size, strict=True):
            row = shown[method, params]
            assert row["accuracy"] == pytest.approx(sum(hits) / 30)
            assert row["low"] < row["accuracy"] < row["high"]
    assert ("resnet6", 1234) in shown
    assert {name for (name, _), row in shown.items() if row["chosen"]} == {"parameter_first"}
    assert len({(key.color, key.shape) for key in figure.keys}) == len(figure.keys)
    # Nobody hides another, and who is alone at a size stands there.
    for measure in ("params", "flops"):
        places = sorted(row[measure] * row[f"beside_{measure}"] for row in shown.values())
        assert all(larger / smaller > 1.025 for smaller, larger in pairwise(places))
    assert shown["resnet6", 1234]["beside_params"] == 1


def test_what_is_far_below_all_others_stands_at_the_edge_with_its_accuracy() -> None:
    table = comparison(3)
    table.loc[(table["method"] == "han") & (table["step"] == 1), "test_n_correct"] = 100
    (spec,) = trade_off(results(table=table), recommended()).specs()
    lowest = min(row["y"] for row in drawn(spec))
    (fallen,) = [row for row in drawn(spec) if row["edge"]]
    assert (fallen["name"], fallen["edge"], fallen["y"]) == ("han", "\u2193 10.0 %", lowest)
    assert lowest > 60


def test_differences_are_those_of_the_table_and_say_which_side_is_better() -> None:
    figure = differences(results())
    assert figure is not None
    first = {row["label"]: row for row in drawn(figure.specs()[0])}
    assert first["L1 norm (Li et al.)"]["mean"] == pytest.approx(-1.0)
    assert first["single weights (Han et al.)"]["mean"] == pytest.approx(3.0)
    assert "right: ours better" in str(figure.specs()[0]["layer"])


def test_variants_of_ours_that_trace_other_images_are_a_table_of_their_own() -> None:
    """Thesis Figure 3-20; they are no rivals of ours, so nothing is claimed of them."""
    own = params_of().surgery
    few = {"utility": own.utility, "widths": own.widths, "trace_images_per_class": 2}
    whole = few | {"trace_images_per_class": None}
    other = few | {"widths": "uniform"}
    changes = [("compare.variants", {"few": few, "whole": whole, "other": other})]
    hits = {"ours_few": [[940, 940, 940], [880, 880, 880]], "ours_whole": [[951, 951, 951], [910, 910, 910]]}
    hits |= {"ours_other": [[930, 930, 930], [870, 870, 870]]}
    more = [
        row
        for method, steps in hits.items()
        for step, of_step in enumerate(steps)
        for row in rows(method, step, of_step, params=PARAMS[step])
    ]
    table = pd.concat([comparison(3), pd.DataFrame(more)])
    found = replace(results(3, *changes, table=table), dataset={"train_counts": [30, 50]})
    (shown,) = tables(tracing_section(found))
    assert {name: means(cells) for name, cells in shown.items()} == {
        "images of each class": ["5,000 parameters", "2,500 parameters"],
        f"{own.trace_images_per_class}": ["95.00", "90.00"],
        "2": ["94.00", "88.00"],
        "all": ["95.10", "91.00"],
    }
    compared = tables(comparison_section(found))[0]
    assert "ours, other" in compared
    assert not {"ours, few", "ours, whole"} & {*compared}
    figure = tracing_figure(found)
    assert figure is not None
    places = {row["n"] for row in drawn(figure.panels[0])}
    # Of equal numbers of images the sizes stand side by side; all of them are 40 of each class, on average.
    assert {round(each) for each in places} == {2, own.trace_images_per_class, 39, 41}


def test_without_such_a_variant_there_is_no_figure_of_traced_images() -> None:
    assert tracing_section(results()) == ""
    assert tracing_figure(results()) is None


def test_a_variant_of_ours_is_held_against_every_competitor_as_ours_is() -> None:
    """Two named methods: what is said of the variant is what would be said of ours, had that its hits."""
    own = params_of().surgery
    other = {"utility": own.utility, "widths": "uniform", "trace_images_per_class": 2}
    changes = ("compare.variants", {"other": other})
    plain = comparison(3)
    variant = plain[plain["method"] == OURS].assign(method="ours_other", test_n_correct=925)
    as_ours = pd.concat([variant.assign(method=OURS), plain[plain["method"] != OURS]])
    found = results(3, changes, table=pd.concat([plain, variant]))
    section = comparison_section(found)
    assert "Ours, other, less theirs, in points, corrected within its own sizes:" in section
    of_ours, of_variant = tables(section)[1:3]
    assert of_variant == tables(comparison_section(results(table=as_ours)))[1]
    assert {*of_ours} - {*of_variant} == {"ours, other"}


def test_rates_are_listed_where_there_was_a_choice() -> None:
    assert "learning rates" not in comparison_section(results())
    assert "No learning rate was tuned: every method retrains at the same" in comparison_section(results())
    table = comparison(3).assign(learning_rate=[0.1, 0.05, 0.1] * (len(comparison(3)) // 3))
    text = comparison_section(results(3, ("compare.rate_factors", [1.0, 0.5]), table=table))
    assert "At every size each method tries 1, 0.5 times the learning rate" in text
    assert tables(text)[-1]["push and prune (ours)"] == ["0.1, 0.05, 0.1", "0.1, 0.05, 0.1"]


def test_nets_that_gained_in_their_last_epoch_are_named_as_not_flat() -> None:
    """Of 500 images l1 gains 40, 4 and 6 in its last epoch, seed by seed: one point is five of them."""
    last = {("l1", 0): [40, 4, 6], ("ours", 1): [1, 0, -3]}
    curves = pd.DataFrame(
        {"seed": seed, "method": method, "step": step, "epoch": epoch, "validation_n": 500}
        | {"validation_n_correct": 400 + (gains[seed] if epoch == 3 else 0)}
        for (method, step), gains in last.items()
        for seed in range(3)
        for epoch in (1, 2, 3)
    )
    found = results(3)
    found = replace(found, tables={**found.tables, "curves": curves})
    text = curves_section(found)
    assert "more than 1.00 points in its last epoch is not flat" in text
    assert "2 of 6 nets" in text
    assert [line for line in text.splitlines() if line.startswith("* ")] == [
        "* L1 norm (Li et al.) at 5,000 parameters: 2 of 3"
    ]
    figure = curves_figure(found)
    assert figure is not None
    ours, theirs = figure.panels
    assert [panel["title"] for panel in figure.panels] == ["push and prune (ours)", "L1 norm (Li et al.)"]
    assert {row["net"] for row in drawn(theirs)} == {"0/0", "0/1", "0/2"}
    assert {round(row["done"], 2) for row in drawn(theirs)} == {0.33, 0.67, 1.0}
    # Those that were not flat end in a hollow mark, and none of ours does.
    assert {row["net"] for row in drawn(theirs) if row["rising"]} == {"0/0", "0/2"}
    assert not any(row["rising"] for row in drawn(ours))
    assert curves_section(results()) == ""
