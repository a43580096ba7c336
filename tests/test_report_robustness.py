"""The robustness page on small hand-made tables: verdicts, drops, the white box, labels."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_builders import UNTOUCHED, gallery, results_with
from tiny_params import Change, params_of

from pipeline.compared import MODELS, OURS_AT_SIZE, at_size, pairs_of, source_name
from pipeline.params.params import Params
from pipeline.report.charts.robustness import severities_figure
from pipeline.report.claims.page import claims_section, claims_table
from pipeline.report.claims.robustness import pruned_family
from pipeline.report.claims.verdicts import judged
from pipeline.report.figures import LABELS
from pipeline.report.results import Results
from pipeline.report.robustness import gallery as pictures
from pipeline.report.robustness.calibration import calibration_section
from pipeline.report.robustness.page import pairs_section, robustness_report, same_size_section
from pipeline.report.robustness.strengths import strengths_table
from pipeline.report.summary import summary
from pipeline.robustness.conditions import CLEAN, list_conditions

N = 200
LABELS_OF_MAIN = [LABELS[name] for name in MODELS]

# From seed, model and condition to the number of hits of N.
Hits = Callable[[int, str, str], int]


def seeds(n: int = 3) -> Change:
    return "seeds", list(range(n))


def headline(*names: str) -> Change:
    return "report.headline", list(names)


def two_sources() -> Change:
    resnet = params_of().sources["resnet"].model_dump(mode="json")
    return "sources", {"resnet": resnet, "second": resnet}


def even(_seed: int, _model: str, condition: str) -> int:
    """Everyone loses the same: 190 of 200 clean, 170 otherwise."""
    return 190 if condition == CLEAN else 170


def hits_of(cells: dict[tuple[str, str], list[int]]) -> Hits:
    """`even`, but for these models and conditions, seed by seed."""

    def hits(seed: int, model: str, condition: str) -> int:
        found = cells.get((model, condition))
        return even(seed, model, condition) if found is None else found[seed]

    return hits


def white_box_hits(_seed: int, _model: str, _attack: str) -> int:
    return 100


def results_of(params: Params, hits: Hits = even, *, white_box: Hits = white_box_hits) -> Results:
    """Results with the tables of robustness, all else empty."""
    conditions = list(list_conditions(params.noise, params.attacks, params.sources))
    perturbed = [each.name for each in conditions if each.kind != CLEAN]
    attacks = [each.name for each in conditions if each.kind == "attack"]
    models = [*results_with(params, {}).models()]
    norms = {"l2": 1.0, "linf": 0.1}
    accuracy = pd.DataFrame(
        [
            {"seed": seed, "model": model, "condition": each.name, "n": N}
            | {"n_correct": hits(seed, model, each.name), "ece": 0.125}
            | {"confidence_of_hits": 0.75 * hits(seed, model, each.name)}
            | {"confidence_of_misses": 0.25 * (N - hits(seed, model, each.name))}
            for seed in params.seeds
            for model in models
            for each in conditions
        ]
    )
    compared = {"change": 0.025, "low": -0.01, "high": 0.06, "only_first": 3, "only_second": 8}
    tables: dict[str, list[dict[str, Any]]] = {
        "pairs": [
            {"seed": seed, "condition": condition, "first": first, "second": second, "n": N, **compared}
            | {"p_value": 0.2265625}
            for seed in params.seeds
            for condition in perturbed
            for first, second in pairs_of(params.after_the_fact, params.lineup)
        ],
        "white_box": [
            {"seed": seed, "attack": attack, "model": model, "n": N, "n_correct_clean": 190, **norms}
            | UNTOUCHED
            | {"n_correct": white_box(seed, model, attack)}
            for seed in params.seeds
            for attack in params.white_box
            for model in models
        ],
        "perturbations": [
            {"seed": seed, "condition": condition, "l2": 0.5 + seed, "linf": 0.1}
            | {"l2_max": 1.0 + seed, "linf_max": 0.2}
            for seed in params.seeds
            for condition in perturbed
        ],
        "crafted": [
            {"seed": seed, "source": source, "attack": attack, "n": N, "n_correct": 1, **UNTOUCHED}
            for seed in params.seeds
            for source in params.sources
            for attack in params.attacks
        ],
        "outcomes": [
            {
                "seed": seed,
                "condition": attack,
                "only_first": 11,
                "only_second": 7,
                "both": 13,
                "neither": 150,
            }
            for seed in params.seeds
            for attack in attacks
        ],
        "scores": [
            {
                "seed": seed,
                "model": model,
                "split": split,
                "n": N,
                "n_correct": 190,
                "params": 10,
                "flops": 10,
            }
            for seed in params.seeds
            for model in MODELS
            for split in ("validation", "test")
        ],
    }
    reliability = accuracy[["seed", "condition", "model", "n", "n_correct"]]
    return results_with(
        params,
        {name: pd.DataFrame(rows) for name, rows in tables.items()}
        | {"accuracy": accuracy, "reliability": reliability.assign(bin=3, confidence=0.7 * accuracy["n"])},
        galleries=dict.fromkeys(attacks, gallery(2)),
        dataset={"classes": [str(digit) for digit in range(10)], "train_counts": [20] * 10, "remarks": []},
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, which take longer than all else."""
    monkeypatch.setattr(pictures, "draw_gallery", lambda *_: True)


def page_of(results: Results) -> str:
    sections = (
        claims_section(results, claims_table(results)),
        robustness_report(results),
        pictures.galleries_section(results, Path("figures")),
    )
    return "\n".join(sections)


@cache
def even_page() -> str:
    """The page of the tiny preset where everyone loses the same."""
    return page_of(results_of(params_of(seeds())))


def section(page: str, heading: str) -> str:
    (found,) = [part for part in f"\n{page}".split("\n## ") if part.startswith(f"{heading}\n")]
    return found


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a text: rows of cells, header first."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]


def means(cells: list[str]) -> list[str]:
    """The cells without their intervals, which `test_uncertainty.py` looks at."""
    return [re.sub(r" \[.*?\]", "", cell) for cell in cells]


def by_first_cell(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows[1:]}


def claims(results: Results) -> dict[tuple[str, str], dict[Any, Any]]:
    """The rows of the claims that pruned models lose less than the original, by condition and model."""
    found = {}
    for row in judged([pruned_family(results)], results.params.report).to_dict("records"):
        if row["family"] == "pruned against the original":
            condition, rest = row["claim"].split(": ", 1)
            label = next(LABELS[name] for name in MODELS if rest.startswith(f"{LABELS[name]}, loses"))
            assert rest == f"{label}, loses less than the original"
            found[condition, label] = row
    return found


def test_claims_name_each_pruned_model_under_each_headline_condition_with_its_verdict() -> None:
    hits = hits_of(
        {
            ("accuracy_first", "fgsm"): [189, 190, 190],  # loses 1, 0, 0 where the base loses 20
            ("parameter_first", "fgsm"): [149, 150, 151],  # 41, 40, 39
            ("accuracy_first", "gaussian"): [190, 150, 171],  # 0, 40, 19
        }
    )
    found = claims(results_of(params_of(seeds()), hits))
    assert len(found) == 5 * 2
    best, smallest = LABELS["accuracy_first"], LABELS["parameter_first"]
    assert found["fgsm", best]["verdict"] == "supported"
    assert found["fgsm", best]["effect"] == pytest.approx((19 + 20 + 20) / 600)
    assert found["fgsm", smallest]["verdict"] == "refuted"
    assert found["fgsm", smallest]["effect"] == pytest.approx(-0.1)
    assert found["gaussian", best]["verdict"] == "undecided"
    assert found["speckle", smallest]["verdict"] == "undecided"


def test_with_one_seed_every_claim_is_undecided() -> None:
    hits = hits_of({("accuracy_first", "fgsm"): [190], ("parameter_first", "fgsm"): [10]})
    found = claims(results_of(params_of(seeds(1)), hits)).values()
    assert {row["verdict"] for row in found} == {"undecided"}
    assert all(np.isnan(row["p"]) and np.isnan(row["p_equivalence"]) for row in found)
    assert {row["note"] for row in found} == {"one seed decides nothing about methods"}


@pytest.mark.parametrize(("clean", "attacked"), [(180, 160), (170, 150), (189, 169), (111, 91)])
def test_losing_as_many_images_as_the_original_in_every_seed_is_undecided(clean: int, attacked: int) -> None:
    # Both lose twenty images; only the division's rounding tells the drops apart.
    hits = hits_of({("accuracy_first", CLEAN): [clean] * 3, ("accuracy_first", "fgsm"): [attacked] * 3})
    found = claims(results_of(params_of(seeds()), hits))
    assert found["fgsm", LABELS["accuracy_first"]]["verdict"] == "undecided"


def test_a_difference_is_paired_by_seed() -> None:
    # Drops differ by ten points between seeds, and by exactly four between the models in each.
    hits = hits_of({("original", "fgsm"): [170, 150, 130], ("accuracy_first", "fgsm"): [178, 158, 138]})
    found = claims(results_of(params_of(seeds()), hits))["fgsm", LABELS["accuracy_first"]]
    effect = [100 * found[each] for each in ("effect", "low", "high")]
    assert effect == pytest.approx([4.0, 1.96, 6.04], abs=0.005)
    assert found["verdict"] == "supported"


def test_drops_are_against_clean_images_of_the_same_seed_and_model() -> None:
    hits = hits_of({("pushed", CLEAN): [200, 180, 160], ("pushed", "fgsm"): [100, 90, 160]})
    results = results_of(params_of(seeds()), hits)
    assert results.changes("pushed", "fgsm").mean(1).tolist() == pytest.approx([-0.5, -0.45, 0.0])
    assert not results.changes("pushed", CLEAN).any()
    assert results.drop("pushed", "fgsm").mean == pytest.approx(-0.95 / 3)


def test_relative_drops_are_shares_of_the_models_own_clean_accuracy() -> None:
    hits = hits_of({("pushed", CLEAN): [200, 180, 160], ("pushed", "fgsm"): [100, 90, 160]})
    results = results_of(params_of(seeds()), hits)
    # 190 of 540 hits are lost.
    found = results.drop("pushed", "fgsm", relative=True)
    assert found.mean == pytest.approx(-190 / 540)
    assert -1 <= found.low < found.mean < found.high


def test_drops_follow_the_seeds_whatever_the_order_of_the_rows() -> None:
    results = results_of(params_of(seeds()), hits_of({("original", "fgsm"): [170, 150, 130]}))
    values = results.changes("original", "fgsm").mean(1).tolist()
    results.tables["accuracy"] = results.tables["accuracy"].iloc[::-1].reset_index(drop=True)
    assert results.changes("original", "fgsm").mean(1).tolist() == values == pytest.approx([-0.1, -0.2, -0.3])


@pytest.mark.usefixtures("undrawn")
def test_the_thesis_tables_show_absolute_and_relative_drops_of_the_main_models() -> None:
    hits = hits_of({("original", CLEAN): [160] * 3, ("original", "fgsm"): [80] * 3})
    absolute, relative = tables(section(page_of(results_of(params_of(seeds()), hits)), "Accuracy drop"))
    assert absolute[0] == relative[0] == ["perturbation", *LABELS_OF_MAIN]
    assert by_first_cell(absolute)["fgsm"][0].startswith("-40.00 [")
    assert by_first_cell(relative)["fgsm"][0].startswith("-50.00 [")
    assert by_first_cell(absolute)["fgsm"][1].startswith("-10.00 [")
    assert by_first_cell(relative)["fgsm"][1].startswith("-10.53 [")


def stronger(*changes: Change) -> Params:
    """The tiny preset with a second Gaussian outside the headline."""
    return params_of(seeds(), ("noise.gaussian_5", {"kind": "gaussian", "std": 25.5}), *changes)


@pytest.mark.usefixtures("undrawn")
def test_a_condition_outside_the_headline_is_in_the_full_tables_alone() -> None:
    hits = hits_of({("original", "gaussian_5"): [120] * 3})
    page = page_of(results_of(stronger(), hits))
    for rows in tables(section(page, "Accuracy drop")):
        assert list(by_first_cell(rows)) == ["gaussian", "poisson", "speckle", "fgsm", "newton_fool"]
    (accuracies,) = tables(section(page, "Accuracy"))
    assert by_first_cell(accuracies)["gaussian_5"][0].startswith("60.00 [")
    assert next(iter(by_first_cell(accuracies))) == CLEAN
    assert "gaussian_5" in by_first_cell(tables(section(page, "Perturbations"))[0])
    assert "gaussian_5" not in section(page, "Claims")
    assert "gaussian_5" not in section(page, "Pair by pair, on the same images")


@pytest.mark.usefixtures("undrawn")
def test_the_thesis_tables_follow_the_order_of_the_headline() -> None:
    page = page_of(results_of(params_of(seeds(), headline("fgsm", "gaussian"))))
    (absolute, relative) = tables(section(page, "Accuracy drop"))
    assert list(by_first_cell(absolute)) == list(by_first_cell(relative)) == ["fgsm", "gaussian"]


def white_box_table(params: Params, hits: Hits = even) -> list[list[str]]:
    (found,) = tables(section(page_of(results_of(params, hits)), "White box, a diagnostic"))
    return found


@pytest.mark.usefixtures("undrawn")
def test_the_white_box_stands_beside_the_same_attack_transferred() -> None:
    attacks = {"fgsm": 8.0, "fgsm_16": 16.0, "pgd": 4.0}
    params = params_of(
        seeds(),
        ("attacks", {name: {"method": "fgsm", "epsilon": epsilon} for name, epsilon in attacks.items()}),
        ("white_box", ["pgd", "fgsm_16"]),
        headline("gaussian", "fgsm"),
    )
    hits = hits_of({("original", "pgd"): [140] * 3, ("original", "fgsm_16"): [120] * 3})
    header, *_ = found = white_box_table(params, hits)
    assert header == ["model", "pgd, white box", "transferred", "fgsm_16, white box", "transferred"]
    assert means(by_first_cell(found)["original"]) == ["50.00", "70.00", "50.00", "60.00"]


@pytest.mark.usefixtures("undrawn")
def test_every_compared_model_has_a_row_in_the_white_box_and_in_the_accuracies() -> None:
    results = results_of(params_of(seeds()))
    labels = [*results.models().values()]
    (white_box,) = tables(section(even_page(), "White box, a diagnostic"))
    (accuracies,) = tables(section(even_page(), "Accuracy"))
    assert list(by_first_cell(white_box)) == labels
    assert accuracies[0] == ["perturbation", *labels]


def test_labels_say_the_size_and_the_source() -> None:
    results = results_of(params_of(seeds()))
    assert results.models()[OURS_AT_SIZE] == "ours at 0.5"
    assert results.models()[at_size("l1")] == "l1 at 0.5"
    assert results.models()[source_name("resnet")] == "source resnet"
    assert results.models()["original"] == LABELS["original"]
    assert [*results.models()] == [*MODELS, OURS_AT_SIZE, at_size("l1"), source_name("resnet")]
    assert len({*results.models().values()}) == len(results.models())


def test_the_size_of_the_labels_is_the_lineups() -> None:
    lineup = {"fraction": 0.25, "competitors": ["han", "scratch"]}
    results = results_of(params_of(seeds(), ("lineup", lineup)))
    assert results.models()[OURS_AT_SIZE] == "ours at 0.25"
    assert [results.models()[at_size(name)] for name in ("han", "scratch")] == [
        "han at 0.25",
        "scratch at 0.25",
    ]


def test_without_a_lineup_the_main_flow_and_the_sources_are_compared() -> None:
    results = results_of(params_of(seeds(), ("lineup", None)))
    assert [*results.models()] == [*MODELS, source_name("resnet")]
    assert results.models()[source_name("resnet")] == "source resnet"
    with pytest.raises(KeyError):
        results.models()[OURS_AT_SIZE]


def test_an_unknown_model_has_no_label() -> None:
    with pytest.raises(KeyError):
        results_of(params_of(seeds())).models()[at_size("random")]


def test_at_the_same_size_a_positive_number_means_that_ours_loses_less() -> None:
    hits = hits_of({(OURS_AT_SIZE, "fgsm"): [180, 181, 182], (at_size("l1"), "fgsm"): [150, 151, 152]})
    (found,) = tables(same_size_section(results_of(params_of(seeds()), hits)))
    assert found[0] == ["perturbation", "ours at 0.5", "l1 at 0.5"]
    assert means(by_first_cell(found)["fgsm"]) == ["-4.50", "-19.50 (+15.00)"]
    assert means(by_first_cell(found)["poisson"]) == ["-10.00", "-10.00 (+0.00)"]


def test_pairs_show_each_headline_condition_pruned_model_and_seed() -> None:
    (found,) = tables(pairs_section(results_of(params_of(seeds()))))
    assert len(found) == 1 + 5 * 2 * 3
    assert found[1] == [
        "gaussian",
        LABELS["accuracy_first"],
        "0",
        "+2.50 [-1.00, +6.00]",
        "3",
        "8",
        "0.227",
        "1",
    ]
    assert {row[1] for row in found[1:]} == {LABELS["accuracy_first"], LABELS["parameter_first"]}
    assert {row[2] for row in found[1:]} == {"0", "1", "2"}


def test_calibration_shows_error_and_confidence_where_right_and_wrong() -> None:
    hits = hits_of({("original", CLEAN): [200] * 3})
    found = tables(calibration_section(results_of(params_of(seeds()), hits)))
    clean, noisy, attacked = (by_first_cell(of_kind)["original"] for of_kind in found)
    error = "12.50 (12.50 to 12.50)"
    assert clean == [error, "600", "0.750", "0", "-", "0"]  # never wrong: no confidence to show
    # Of 200 images 170, three seeds under three kinds of noise and two attacks.
    assert noisy == [error, "1,530", "0.750", "270", "0.250", "0"]
    assert attacked == [error, "1,020", "0.750", "180", "0.250", "0"]


def test_calibration_counts_those_wrong_in_the_highest_bin_as_sure() -> None:
    results = results_of(params_of(seeds(), ("robustness.calibration_bins", 5)))
    bins = results.tables["reliability"]
    bins.loc[(bins["condition"] == "speckle") & (bins["model"] == "original"), "bin"] = 4
    # Sure in two seeds of three; of a perturbation that is not in the headline; of a bin below.
    bins.loc[(bins["condition"] == "fgsm") & (bins["model"] == "pushed") & (bins["seed"] > 0), "bin"] = 4
    bins.loc[bins["condition"] == "pgd", "bin"] = 4
    page = calibration_section(results)
    assert "at least 80.00 %" in page
    found = [by_first_cell(of_kind) for of_kind in tables(page)]
    assert [of_kind["original"][5] for of_kind in found] == ["0", "90", "0"]
    assert [of_kind[LABELS["pushed"]][5] for of_kind in found] == ["0", "0", "60"]


@pytest.mark.usefixtures("undrawn")
def test_perturbations_are_listed_with_settings_and_norms_over_seeds() -> None:
    (found,) = tables(section(even_page(), "Perturbations"))
    rows = by_first_cell(found)
    assert list(rows) == ["gaussian", "poisson", "speckle", "fgsm", "newton_fool", "pgd"]
    assert rows["poisson"][0] == "poisson, 255 photons at white (the level is ours)"
    assert rows["newton_fool"][0] == "Newton Fool, 3 steps at most, eta 0.01"
    # Seeds 0, 1 and 2: means over them, and the largest of all.
    assert rows["fgsm"][1:] == ["382.5", "765.0", "25.5", "51.0", "0 of 240", "0"]
    assert rows["gaussian"][5:] == ["-", "-"]


@pytest.mark.usefixtures("undrawn")
def test_a_foolbox_attack_is_described_by_class_budget_and_options() -> None:
    minimising = {"method": "foolbox", "attack": "L2DeepFoolAttack", "epsilon": None, "options": {}}
    of_image = {"method": "foolbox", "attack": "L2PGD", "epsilon": 255.0, "options": {}}
    params = params_of(seeds(), ("attacks.deep_fool", minimising), ("attacks.of_image", of_image))
    rows = by_first_cell(tables(section(page_of(results_of(params)), "Perturbations"))[0])
    assert rows["pgd"][0] == "LinfPGD, epsilon, of 255: 16, steps 2"
    assert rows["deep_fool"][0] == "L2DeepFoolAttack"
    assert rows["of_image"][0] == "L2PGD, L2 epsilon, 0-255 scale: 255"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("names", [("fgsm",), ("gaussian", "poisson")])
def test_a_headline_of_noise_or_of_attacks_alone_makes_a_page(names: tuple[str, ...]) -> None:
    page = page_of(results_of(params_of(seeds(), headline(*names))))
    (absolute, _) = tables(section(page, "Accuracy drop"))
    assert list(by_first_cell(absolute)) == list(names)


@pytest.mark.usefixtures("undrawn")
def test_with_two_sources_the_headline_shows_the_attack_from_each() -> None:
    params = params_of(seeds(), two_sources())
    hits = hits_of({("original", "fgsm_from_second"): [100] * 3})
    page = page_of(results_of(params, hits))
    (absolute, _) = tables(section(page, "Accuracy drop"))
    rows = by_first_cell(absolute)
    assert {"gaussian", "fgsm_from_resnet", "fgsm_from_second"} <= set(rows)
    assert "fgsm" not in rows
    assert "### fgsm_from_second: " in section(page, "Gallery")
    assert rows["fgsm_from_resnet"][0].startswith("-10.00 [")
    assert rows["fgsm_from_second"][0].startswith("-45.00 [")


def test_with_two_sources_the_summary_shows_the_attack_from_each() -> None:
    found = summary(results_of(params_of(seeds(), two_sources())))
    assert "fgsm_from_resnet" in found
    assert "fgsm_from_second" in found


@pytest.mark.usefixtures("undrawn")
def test_with_two_sources_the_white_box_stands_beside_the_first() -> None:
    params = params_of(seeds(), two_sources())
    hits = hits_of({("original", "pgd_from_resnet"): [140] * 3, ("original", "pgd_from_second"): [20] * 3})
    assert means(by_first_cell(white_box_table(params, hits))["original"]) == ["50.00", "70.00"]


def test_the_galleries_are_drawn_where_they_are_shown(tmp_path: Path) -> None:
    results = results_of(params_of(seeds(1), headline("gaussian", "fgsm")))
    page = pictures.galleries_section(results, tmp_path)
    shown = {part.split(".png")[0] for part in page.split("(figures/")[1:] if ".png" in part[:80]}
    assert shown == {"gallery_fgsm_only_original"}
    assert {path.stem for path in tmp_path.glob("*.png")} == shown
    assert {path.stem for path in tmp_path.glob("*.svg")} == shown
    assert "No image." in section(page, "Gallery")


def severities(params: Params) -> dict[str, dict[str, list[float]]]:
    """By panel and model the strengths of the figure."""
    results = results_of(params)
    figure = severities_figure(results, strengths_table(results))
    assert figure is not None
    found: dict[str, dict[str, list[float]]] = {}
    for spec in figure.specs():
        (rows,) = spec["datasets"].values()
        panel = found.setdefault(", ".join(spec["title"]["text"]), {})
        for row in rows:
            panel.setdefault(row["who"], []).append(row["strength"])
    return found


def test_severities_show_a_panel_for_each_method_and_no_empty_ones() -> None:
    found = severities(params_of(seeds()))
    transferred = ["gaussian", "poisson", "speckle"]
    transferred += [f"{name}, transferred" for name in ("fgsm", "newton_fool, eta 0.01", "LinfPGD, steps 2")]
    # The one attack in its norm is its own worst case, which would be the same panel again.
    assert [*found] == [*transferred, "LinfPGD, steps 2, on the model itself (Linf)"]
    assert all(list(each) == LABELS_OF_MAIN for each in found.values())


def test_methods_of_several_strengths_push_the_others_from_the_figure() -> None:
    ((title, lines),) = severities(stronger()).items()
    assert title == "gaussian"
    assert lines["original"] == [0.0, 5.0, 25.5]


def test_an_attack_without_a_budget_has_a_row_and_no_place_among_the_severities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minimising = {
        f"deep_fool_{steps}": {"method": "foolbox", "attack": "L2DeepFoolAttack", "epsilon": None}
        | {"options": {"steps": steps}}
        for steps in (5, 50)
    }
    params = stronger(*((f"attacks.{name}", attack) for name, attack in minimising.items()))
    assert [*severities(params)] == ["gaussian"]
    monkeypatch.setattr(pictures, "draw_gallery", lambda *_: True)
    page = page_of(results_of(params))
    assert set(minimising) <= set(by_first_cell(tables(section(page, "Accuracy"))[0]))
    assert set(minimising) <= set(by_first_cell(tables(section(page, "Perturbations"))[0]))
