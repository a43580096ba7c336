"""Accuracy by strength: on a linear net, whose distances to the border have a closed form, and by plain loops."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from report_builders import UNTOUCHED, results_with
from scipy.stats import t as student
from tiny_params import Change, params_of
from torch import Tensor, nn

from pipeline.attacks import craft
from pipeline.compared import ORIGINAL
from pipeline.params.perturbations import Attack, FgsmAttack, FoolboxAttack
from pipeline.report.charts.robustness import severities_figure
from pipeline.report.results import Results
from pipeline.report.robustness.corruption import corruption_errors, corruption_section
from pipeline.report.robustness.strengths import (
    ITSELF,
    WORST,
    sources_section,
    strengths_table,
    white_box_strengths_section,
)
from pipeline.robustness.conditions import CLEAN, list_conditions
from pipeline.robustness.strengths import norm_and_budget, pack_distances, survivors, unpack_distances
from pipeline.uncertainty import counts_of

N = 30


class Linear(nn.Module):
    """Two classes, told apart by the sign of w.x + b; weights of different lengths, so that the norms differ."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1.0, 2.0, 16))
        self.b = -0.5 * float(self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        margin = x.flatten(1) @ self.w + self.b
        return torch.stack([margin, -margin], 1)


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Around grey, far enough from black and white that no attack is clipped; every tenth label is wrong."""
    images = 0.5 + 0.12 * (torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(3)) - 0.5)
    with torch.no_grad():
        labels = Linear()(images).argmax(1)
    labels[::10] = 1 - labels[::10]
    return images, labels


def closed_form(order: float) -> np.ndarray:
    """Distance to the border on the 0-255 scale, |w.x + b| / |w| in the dual norm; 0 where the label is missed."""
    images, labels = images_and_labels()
    model = Linear()
    w, x = model.w.detach().double().numpy(), images.double().flatten(1).numpy()
    margin = x @ w + model.b
    dual = {np.inf: np.abs(w).sum(), 2: np.sqrt((w**2).sum())}[order]
    return np.where((margin < 0) == (labels.numpy() == 1), 255 * np.abs(margin) / dual, 0.0)


def foolbox_attack(name: str, epsilon: float | None, **options: Any) -> FoolboxAttack:
    return FoolboxAttack(method="foolbox", attack=name, epsilon=epsilon, options=options)


def hits_under(attack: Attack) -> tuple[np.ndarray, Tensor]:
    images, labels = images_and_labels()
    torch.manual_seed(0)
    model = Linear()
    found = craft(attack, model, images, labels, batch_size=N)
    with torch.no_grad():
        return (model(found).argmax(1) == labels).numpy(), found


@pytest.mark.parametrize("order", [np.inf, 2])
def test_accuracy_at_every_strength_is_that_of_the_closed_form(order: float) -> None:
    exact, images = closed_form(order), images_and_labels()[0]
    norm = "Linf" if order == np.inf else "L2"
    found = np.sort(exact)
    # Strengths between two images' distances that lie well apart.
    strengths = [(low + high) / 2 for low, high in pairwise(found) if low > 0 and high > 1.1 * low]
    assert len(strengths) > 5
    name, first = ("LInfFMNAttack", "max_stepsize") if norm == "Linf" else ("DDNAttack", "init_epsilon")
    hits, moved = hits_under(foolbox_attack(name, None, steps=100, **{first: 25.5}))
    distances = unpack_distances(pack_distances(images, moved, norm))
    # The fast minimum norm attack may stop on the border itself: such an image has not fallen.
    assert hits.sum() <= (3 if norm == "Linf" else 0)
    assert distances[~hits] == pytest.approx(exact[~hits], rel=0.03, abs=1e-3)
    steps = {"steps": 30, "rel_stepsize": 0.1}
    for strength in strengths:
        wanted = (exact > strength).tolist()
        one_step: Attack = FgsmAttack(method="fgsm", epsilon=strength)
        attack = one_step if norm == "Linf" else foolbox_attack("FGM", strength)
        assert norm_and_budget(attack) == (norm, strength)
        assert hits_under(attack)[0].tolist() == wanted
        assert hits_under(foolbox_attack(f"{norm}PGD", strength, **steps, restarts=2))[0].tolist() == wanted
        found = survivors(strength, exact > 0, within=[], smallest=[(distances, hits)])
        assert found.tolist() == [a or b for a, b in zip(wanted, hits.tolist(), strict=True)]


def test_restarts_fool_images_that_the_first_start_does_not() -> None:
    """One short step from a random start goes some way only; which way is left to chance."""
    options = {"steps": 1, "rel_stepsize": 0.3}
    strength = float(np.median(closed_form(np.inf)[closed_form(np.inf) > 0])) * 1.5
    once, often = (hits_under(foolbox_attack("LinfPGD", strength, **options, restarts=n))[0] for n in (1, 30))
    assert not (often & ~once).any()  # the same draws at first: who fell stays fallen
    assert often.sum() < once.sum()


def norms_and_hits(seed: int, model: int, attack: int) -> np.ndarray:
    return np.random.default_rng([seed, model, attack]).random(N) < 0.7


ATTACKS: list[Change] = [
    ("seeds", [0, 1]),
    (
        "attacks",
        {
            "fgsm_4": {"method": "fgsm", "epsilon": 4.0},
            "fgsm": {"method": "fgsm", "epsilon": 16.0},
            "fmn": {"method": "foolbox", "attack": "LInfFMNAttack", "epsilon": None, "options": {"steps": 5}},
            "fgm": {"method": "foolbox", "attack": "FGM", "epsilon": 64.0, "options": {}},
        },
    ),
    ("white_box", ["fgsm_4", "fgsm", "fmn", "fgm"]),
    ("report.headline", ["gaussian", "fgsm"]),
    ("noise", {"gaussian": {"kind": "gaussian", "std": 5.0}, "strong": {"kind": "gaussian", "std": 25.0}}),
]


def distances_of(seed: int, model: int) -> np.ndarray:
    return np.random.default_rng([seed, model]).uniform(0, 32, N).astype(np.float32)


def packed(distances: np.ndarray) -> str:
    """As the stage writes them, by the format's own words: little-endian floats in hexadecimal behind an x."""
    return "x" + "".join(f"{int(np.float32(d).view(np.uint32)):08x}" for d in distances.byteswap())


def results_of(*changes: Change) -> Results:
    """Random hits of every model, on clean images and under everything."""
    params = params_of(*ATTACKS, *changes)
    models = [*results_with(params, {}).models()]
    conditions = [*list_conditions(params.noise, params.attacks, params.sources)]
    tables = {
        "accuracy": [
            {"seed": seed, "condition": each.name, "model": model}
            | counts_of(norms_and_hits(seed, idx, 100 + number))
            for seed in params.seeds
            for number, each in enumerate(conditions)
            for idx, model in enumerate(models)
        ],
        "white_box": [
            {"seed": seed, "attack": attack, "model": model, **UNTOUCHED}
            | counts_of(norms_and_hits(seed, idx, number))
            | {"distances": packed(distances_of(seed, idx)) if attack == "fmn" else float("nan")}
            for seed in params.seeds
            for number, attack in enumerate(params.white_box)
            for idx, model in enumerate(models)
        ],
    }
    return results_with(params, {name: pd.DataFrame(rows) for name, rows in tables.items()})


def test_the_worst_case_is_that_of_every_attack_image_by_image() -> None:
    table = strengths_table(results_of())
    wanted, seeds = {}, (0, 1)
    for strength in (4.0, 16.0):
        n_robust = 0
        for seed in seeds:
            clean, weak, strong, smallest = (norms_and_hits(seed, 0, each) for each in (100, 0, 1, 2))
            for image, distance in enumerate(distances_of(seed, 0)):
                falls = not weak[image] or (strength == 16 and not strong[image])
                falls = falls or (not smallest[image] and distance <= strength)
                n_robust += bool(clean[image] and not falls)
        wanted[strength] = n_robust
    rows = table[(table["model"] == "original") & (table["family"] == WORST) & (table["norm"] == "Linf")]
    assert dict(zip(rows["strength"], rows["n_correct"], strict=True)) == wanted | {
        0.0: sum(int(norms_and_hits(seed, 0, 100).sum()) for seed in seeds)
    }
    assert set(rows["n"]) == {2 * N}
    assert bool((rows["low"] <= rows["accuracy"]).all() and (rows["accuracy"] <= rows["high"]).all())
    in_l2 = table[(table["family"] == WORST) & (table["norm"] == "L2")]
    assert set(in_l2["strength"]) == {0.0, 64.0}


def test_every_curve_begins_at_the_clean_images_and_holds_every_strength() -> None:
    table = strengths_table(results_of())
    curves = table[table["model"] == "original"].groupby(["kind", "family", "source", "norm"])["strength"]
    found = {key: values.tolist() for key, values in curves}
    assert found["noise", "gaussian", "", ""] == [0, 5, 25]
    assert found["attack", "fgsm", "resnet", "Linf"] == found["attack", "fgsm", ITSELF, "Linf"] == [0, 4, 16]
    assert found["attack", "fmn", ITSELF, "Linf"] == [0, 4, 16]
    assert found["attack", "FGM", ITSELF, "L2"] == [0, 64]
    (row,) = table[
        (table["condition"] == "fgsm") & (table["source"] == ITSELF) & (table["model"] == "original")
    ]["n_correct"]
    assert row == sum(int(norms_and_hits(seed, 0, 1).sum()) for seed in (0, 1))
    section = white_box_strengths_section(results_of())
    assert section.count("**worst case within") == 3


def test_the_worst_case_of_a_single_attack_is_not_shown_again() -> None:
    results = results_of()
    white_box, clean = results.tables["white_box"], results.tables["accuracy"]
    clean = clean[clean["condition"] == CLEAN].set_index(["seed", "model"])["hits"]
    for idx, row in white_box[white_box["attack"] == "fgm"].iterrows():
        white_box.at[idx, "hits"] = row["hits"] & clean[row["seed"], row["model"]]
    section = white_box_strengths_section(results)
    assert section.count("**worst case within") == 2
    assert "| **worst case within 64** |" not in section
    assert "| fgm within 64 |" in section

    figure = severities_figure(results, strengths_table(results))
    assert figure is not None
    titles = [", ".join(spec["title"]["text"]) for spec in figure.specs()]
    assert "worst case, on the model itself (Linf)" in titles
    weak = {"method": "foolbox", "attack": "FGM", "epsilon": 8.0, "options": {}}
    two_budgets = ("attacks", results.params.model_dump(mode="json")["attacks"] | {"weak_fgm": weak})
    results = results_of(two_budgets, ("white_box", ["fgsm_4", "fgsm", "fmn", "fgm", "weak_fgm"]))
    figure = severities_figure(results, strengths_table(results))
    assert figure is not None
    titles = [", ".join(spec["title"]["text"]) for spec in figure.specs()]
    assert [each for each in titles if each.endswith("(L2)")] == ["FGM, on the model itself (L2)"]
    # Of two budgets it stays in the table, even where one of them says the same.
    white_box = results.tables["white_box"]
    for idx in white_box.index[white_box["attack"] == "fgm"]:
        white_box.at[idx, "hits"] = np.zeros(N, dtype=bool)
    section = white_box_strengths_section(results)
    assert all(f"| **worst case within {budget}** |" in section for budget in (8, 64))


def test_corruption_errors_are_sums_of_errors_by_those_of_the_original() -> None:
    results = results_of()
    models = [*results.models()]
    numbers = {each.name: number for number, each in enumerate(results.conditions())}

    def errors(model: int, *names: str) -> int:
        return sum(
            int((~norms_and_hits(seed, model, 100 + numbers[name])).sum())
            for seed in (0, 1)
            for name in names
        )

    found = corruption_errors(results, models[1])
    wanted = errors(1, "gaussian", "strong") / errors(0, "gaussian", "strong")
    assert found["gaussian"].mean == pytest.approx(wanted)
    assert found["mean"].mean == pytest.approx(wanted)
    assert found["gaussian"].low < wanted < found["gaussian"].high
    assert corruption_errors(results, ORIGINAL)["mean"].mean == 1

    other = [
        ("noise", {"gaussian": {"kind": "gaussian", "std": 5.0}, "salt": {"kind": "salt", "amount": 0.1}})
    ]
    of_two = corruption_errors(results_of(*other), models[1])
    assert of_two["mean"].mean == pytest.approx((of_two["gaussian"].mean + of_two["salt"].mean) / 2)


def test_an_original_that_never_errs_is_no_reference() -> None:
    results = results_of()
    perfect = results.tables["accuracy"]
    for idx in perfect.index[(perfect["model"] == ORIGINAL) & (perfect["condition"] != CLEAN)]:
        perfect.at[idx, "hits"] = np.ones(N, dtype=bool)
    assert corruption_errors(results, "pushed")["mean"].n == 0


NOISES: list[Change] = [
    ("seeds", [*range(6)]),
    (
        "noise",
        {"gaussian": {"kind": "gaussian", "std": 5.0}, "strong": {"kind": "gaussian", "std": 25.0}}
        | {"salt": {"kind": "salt", "amount": 0.1}},
    ),
]


def results_of_better_when_clean() -> tuple[Results, dict[tuple[int, str, str], np.ndarray]]:
    """Every model is right on most clean images; and the hits by seed, model and condition."""
    results = results_of(*NOISES)
    table = results.tables["accuracy"]
    for idx in table.index[table["condition"] == CLEAN]:
        table.at[idx, "hits"] = table.at[idx, "hits"] | (np.arange(N) < 24)
    keys = zip(table["seed"], table["model"], table["condition"], strict=True)
    return results, dict(zip(keys, table["hits"], strict=True))


def test_relative_corruption_errors_are_the_growth_of_errors_by_that_of_the_original() -> None:
    results, hits = results_of_better_when_clean()
    severities = {"gaussian": ("gaussian", "strong"), "salt": ("salt",)}
    found = corruption_errors(results, "pushed", relative=True)

    def growth(model: str, kind: str) -> np.ndarray:
        of_seed = [
            np.mean(
                [hits[seed, model, CLEAN] * 1.0 - hits[seed, model, each] for each in severities[kind]], 0
            )
            for seed in range(6)
        ]
        return np.array(of_seed)

    def half(values: np.ndarray, image: float) -> float:
        seeds, images = values.mean(1), np.concatenate([values.mean(0), [image, -image]])
        p = (1 + results.params.report.confidence) / 2
        parts = [student.ppf(p, len(x) - 1) ** 2 * x.var(ddof=1) / len(x) for x in (seeds, images)]
        return float(np.sqrt(sum(parts)))

    ratios, rests, weights = [], [], []
    for kind in severities:
        mine, original = growth("pushed", kind), growth(ORIGINAL, kind)
        ratios.append(mine.sum() / original.sum())
        weights.append(1 / original.mean())
        rests.append((mine - ratios[-1] * original) * weights[-1])
        assert found[kind].mean == pytest.approx(ratios[-1])
        wide = half(rests[-1], weights[-1])
        assert (found[kind].low, found[kind].high) == pytest.approx((ratios[-1] - wide, ratios[-1] + wide))
    wide = half(np.mean(rests, axis=0), float(np.mean(weights)))
    assert found["mean"].mean == pytest.approx(np.mean(ratios))
    assert (found["mean"].low, found["mean"].high) == pytest.approx(
        (np.mean(ratios) - wide, np.mean(ratios) + wide)
    )
    assert corruption_errors(results, ORIGINAL, relative=True)["mean"].mean == 1


def test_relative_corruption_errors_may_be_negative() -> None:
    results, hits = results_of_better_when_clean()
    table = results.tables["accuracy"]
    for idx, row in table[(table["model"] == "pushed") & (table["condition"] != CLEAN)].iterrows():
        table.at[idx, "hits"] = hits[row["seed"], "pushed", CLEAN] | (np.arange(N) > 26)
    found = corruption_errors(results, "pushed", relative=True)["mean"]
    assert found.low < found.mean < 0 < corruption_errors(results, "pushed")["mean"].mean


def test_no_relative_corruption_error_where_the_original_does_not_surely_err_more() -> None:
    results, hits = results_of_better_when_clean()
    table = results.tables["accuracy"]
    for idx, row in table[(table["model"] == ORIGINAL) & (table["condition"] == "salt")].iterrows():
        table.at[idx, "hits"] = hits[row["seed"], ORIGINAL, CLEAN] & (np.arange(N) > 0)  # a little more
    found = corruption_errors(results, "pushed", relative=True)
    assert (found["gaussian"].n, found["salt"].n, found["mean"].n) == (6, 0, 0)
    assert corruption_errors(results, "pushed")["salt"].n == 6
    _, plain, relative = corruption_section(results).split("| noise")
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in relative.splitlines()}
    assert set(rows["| salt"]) == set(rows["| **mean (mCE)**"]) == {"-", "- |"}
    assert rows["| gaussian"][0] == "1"
    assert "-" not in plain.split("| salt | ")[1].splitlines()[0].split(" | ")
    # Where no noise costs the original anything there is no table, and the page says so.
    page = corruption_section(results_of())
    assert "Here that is so of every noise." in page
    assert page.count("| noise") == 1


def test_with_two_sources_every_attack_has_a_matrix_of_source_against_victim() -> None:
    assert sources_section(results_of()) == ""
    resnet = params_of().sources["resnet"].model_dump(mode="json")
    results = results_of(("sources", {"resnet": resnet, "second": resnet}))
    page = sources_section(results)
    rows = [line for line in page.splitlines() if line.startswith(("| resnet", "| second"))]
    assert len(rows) == 2 * 4
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[:2]]
    models = [*results.models()]
    numbers = {each.name: number for number, each in enumerate(results.conditions())}
    for row in cells:
        number = 100 + numbers[f"fgsm_4_from_{row[0]}"]
        for idx, model in enumerate(models):
            share = np.mean([norms_and_hits(seed, idx, number) for seed in (0, 1)])
            assert row[idx + 1].startswith(f"{100 * share:.2f} [")
            assert row[idx + 1].endswith("(itself)") == (model == f"source_{row[0]}")
