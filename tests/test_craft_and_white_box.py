"""The stages that attack: from models and images on disk to stored images and the white-box table."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import NUMERICS
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.attacks import craft as attack_images
from pipeline.checkpoint import load_classifier, save_model
from pipeline.errors import InputError
from pipeline.images.image_set import ImageSet, save_image_set
from pipeline.images.parts import load_parts
from pipeline.jobs.job import Workplace
from pipeline.machine.seeding import seed_torch
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.params.perturbations import Attack, FgsmAttack, FoolboxAttack, NewtonFoolAttack
from stages import craft, white_box

SHAPE = (1, 6, 6)
N_TEST = 30
CLASSES = ("a", "b", "c")
ATTACKS: dict[str, Attack] = {
    "fgsm": FgsmAttack(method="fgsm", epsilon=32.0),
    "newton_fool": NewtonFoolAttack(method="newton_fool", steps=20, eta=0.02),
    "pgd": FoolboxAttack(
        method="foolbox", attack="LinfPGD", epsilon=32.0, options={"steps": 10, "rel_stepsize": 0.25}
    ),
}
DDN = FoolboxAttack(
    method="foolbox", attack="DDNAttack", epsilon=None, options={"steps": 60, "init_epsilon": 25.5}
)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Stages set determinism and denormals for the whole process."""
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_flush_denormal(False)


def image_set() -> ImageSet:
    """Three classes told apart by which third of the image is bright."""
    random = np.random.default_rng(0)
    labels = np.arange(3 * N_TEST, dtype=np.int64) % 3
    images = random.integers(40, 120, size=(len(labels), *SHAPE), dtype=np.uint8)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 2] += 60
    parts = np.split(np.arange(len(labels)), 3)
    return ImageSet(images, labels, CLASSES, {"train": parts[0], "validation": parts[1], "test": parts[2]})


def classifier(seed: int) -> Classifier:
    """A net that looks at the thirds, with some noise of its own."""
    torch.manual_seed(seed)
    net = build_model("fc", 3, in_features=36, hidden=[3])
    first, decision = net.get_submodule("hidden1"), net.get_submodule("decision")
    with torch.no_grad():
        first.weight.mul_(0.1)
        for label in range(3):
            first.weight[label].view(6, 6)[2 * label : 2 * label + 2] += 0.3
        decision.weight.copy_(4 * torch.eye(3))
    data = image_set()
    mean, std = data.normalization()
    return Classifier(net, image_shape=SHAPE, mean=mean, std=std, classes=CLASSES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared set and three models, `model0` to `model2`. Read it."""
    root = tmp_path_factory.mktemp("made")
    (root / "prepare").mkdir()
    save_image_set(image_set(), root / "prepare")
    for seed in range(3):
        save_model(classifier(seed), root / f"model{seed}")
    return root


def do_craft(made: Path, attack: str, out: Path, source: str = "model0") -> str:
    out.mkdir()
    return craft.work(
        Workplace(out, out),
        seed=0,
        name=f"resnet/{attack}",
        numerics=NUMERICS,
        attack=ATTACKS[attack],
        prepared=made / "prepare",
        source=made / source,
    )


def crafted(made: Path, attack: str, out: Path) -> dict[str, torch.Tensor]:
    do_craft(made, attack, out)
    return load_file(out / "images.safetensors")


def n_correct(made: Path, images: torch.Tensor, labels: torch.Tensor, model: str = "model0") -> int:
    with torch.no_grad():
        return int((load_classifier(made / model)(images.float()).argmax(1) == labels).sum())


@pytest.mark.parametrize("attack", ATTACKS)
def test_craft_stores_half_precision_images_that_fool_the_source(
    made: Path, tmp_path: Path, attack: str
) -> None:
    line = do_craft(made, attack, tmp_path / "out")
    stored = load_file(tmp_path / "out/images.safetensors")
    test = load_parts(made / "prepare", torch.device("cpu")).test
    assert set(stored) == {"images", "labels"}
    assert stored["images"].dtype == torch.float16
    assert stored["images"].shape == test.images.shape
    assert bool(stored["images"].isfinite().all())
    assert 0 <= float(stored["images"].min()) <= float(stored["images"].max()) <= 1
    assert torch.equal(stored["labels"], test.labels)

    clean = n_correct(made, test.scaled(), test.labels)
    attacked = n_correct(made, stored["images"], test.labels)
    assert clean > 0.9 * N_TEST
    assert attacked < clean - 3
    # Of the images that are stored, not of those before they were rounded.
    assert line == f"the source falls from {clean} to {attacked} of {N_TEST} correct"
    (row,) = pd.read_csv(tmp_path / "out/crafted.csv").to_dict("records")
    assert (row["n"], row["n_correct"], row["n_attacked"]) == (N_TEST, attacked, clean)
    assert row["n_idle"] <= attacked


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_saturated_net_has_its_untouched_images_counted_in_both_tables(
    made: Path, tmp_path: Path, attack: str
) -> None:
    saturated = classifier(0)
    with torch.no_grad():
        saturated.net.get_submodule("decision").weight.mul_(100)  # type: ignore[operator]
    save_model(saturated, tmp_path / "saturated")
    do_craft(made, attack, tmp_path / "out", source=str(tmp_path / "saturated"))
    (row,) = pd.read_csv(tmp_path / "out/crafted.csv").to_dict("records")
    test = load_parts(made / "prepare", torch.device("cpu")).test
    stored = load_file(tmp_path / "out/images.safetensors")["images"]
    with torch.no_grad():
        right = load_classifier(made / "model0")(test.scaled()).argmax(1) == test.labels  # the same decisions
        logits = saturated.eval()(test.scaled())
    others = logits.softmax(1)[torch.nn.functional.one_hot(test.labels, 3) == 0].view(N_TEST, 2)
    assert row["n_attacked"] == int(right.sum())
    assert row["n_vanished"] == int(((others == 0).all(1) & right).sum()) > N_TEST / 3
    if attack == "fgsm":  # PGD starts at random
        same = (stored == test.scaled().half()).flatten(1).all(1)
        assert row["n_untouched"] == int((same & right).sum()) > N_TEST / 3
    assert row["n_idle"] > N_TEST / 3
    rows = white_box_rows(made, attack, tmp_path / "white_box", saturated=str(tmp_path / "saturated"))
    assert rows.loc["saturated", ["n_attacked", "n_vanished"]].tolist() == [
        row["n_attacked"],
        row["n_vanished"],
    ]


def test_craft_writes_down_the_attacks_settings_and_its_name(made: Path, tmp_path: Path) -> None:
    do_craft(made, "pgd", tmp_path / "out")
    with safe_open(tmp_path / "out/images.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["crafted"])
    assert about == {"attack": ATTACKS["pgd"].model_dump(mode="json"), "on": "resnet/pgd"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_craft_gives_the_same_images_again_whatever_was_drawn_before(
    made: Path, tmp_path: Path, attack: str
) -> None:
    torch.manual_seed(1)
    first = crafted(made, attack, tmp_path / "first")
    torch.manual_seed(2)
    assert torch.equal(first["images"], crafted(made, attack, tmp_path / "second")["images"])


def test_craft_writes_the_same_bytes_every_time(made: Path, tmp_path: Path) -> None:
    files = []
    for idx in range(8):  # an order left to chance shows in one of a few runs, not in each
        do_craft(made, "fgsm", tmp_path / str(idx))
        files.append((tmp_path / str(idx) / "images.safetensors").read_bytes())
    assert len(set(files)) == 1


def white_box_rows(made: Path, attack: str, out: Path, **models: str) -> pd.DataFrame:
    out.mkdir()
    white_box.work(
        Workplace(out, out),
        seed=0,
        name=attack,
        numerics=NUMERICS,
        attack=(ATTACKS | {"ddn": DDN})[attack],
        prepared=made / "prepare",
        models={name: made / file for name, file in models.items()},
    )
    return pd.read_csv(out / "white_box.csv", keep_default_na=False).set_index("model")


def test_how_far_an_image_was_moved_is_written_where_the_attack_looks_for_the_smallest_perturbation(
    made: Path, tmp_path: Path
) -> None:
    rows = white_box_rows(made, "ddn", tmp_path / "ddn", base="model0")
    test = load_parts(made / "prepare", torch.device("cpu")).test
    seed_torch(0, "white_box", "ddn")  # where a gradient vanishes the attack goes anywhere
    model, batch_size = load_classifier(made / "model0"), NUMERICS.eval_batch_size
    moved = attack_images(DDN, model, test.scaled(), test.labels, batch_size=batch_size)
    # On the border itself the last bit decides: they go a little further.
    moved = (test.scaled() + 1.001 * (moved - test.scaled())).clamp(0, 1)
    assert rows.loc["base", "n_correct"] == n_correct(made, moved, test.labels)
    written = bytes.fromhex(rows.loc["base", "distances"].removeprefix("x"))
    wanted = [255 * float(image.norm()) for image in moved - test.scaled()]
    assert struct.unpack(f"<{N_TEST}f", written) == pytest.approx(wanted, rel=1e-5)
    of_fgsm = white_box_rows(made, "fgsm", tmp_path / "fgsm", base="model0")
    assert of_fgsm.loc["base", "distances"] == ""


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_white_box_has_a_row_for_every_model_and_fools_each(
    made: Path, tmp_path: Path, attack: str
) -> None:
    rows = white_box_rows(made, attack, tmp_path / "out", base="model0", grown="model1", pushed="model2")
    assert list(rows.index) == ["base", "grown", "pushed"]
    assert set(rows["n"]) == {N_TEST}
    assert bool((rows["n_correct_clean"] > 0.9 * N_TEST).all())
    assert bool((rows["n_correct"] < rows["n_correct_clean"] - 3).all())
    assert bool((rows["linf"] > 0).all())
    if attack != "newton_fool":  # which has no epsilon
        assert float(rows["linf"].max()) <= 32 / 255 + 2**-11  # half precision rounds


def test_an_attack_without_random_start_is_the_same_in_the_white_box_as_in_craft(
    made: Path, tmp_path: Path
) -> None:
    rows = white_box_rows(made, "fgsm", tmp_path / "white_box", source="model0")
    stored = crafted(made, "fgsm", tmp_path / "craft")
    right = n_correct(made, stored["images"], stored["labels"])
    assert int(rows.loc["source", "n_correct"]) == right


def test_equal_models_have_equal_rows_random_starts_and_all(made: Path, tmp_path: Path) -> None:
    rows = white_box_rows(made, "pgd", tmp_path / "out", base="model0", grown="model1", pushed="model0")
    assert rows.loc["base"].to_dict() == rows.loc["pushed"].to_dict()
    assert rows.loc["base"].to_dict() != rows.loc["grown"].to_dict()


def test_a_source_for_other_labels_is_refused_before_anything_is_crafted(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(0)
    model.classes = CLASSES[::-1]
    save_model(model, made / "other")
    monkeypatch.setattr("pipeline.attacks.craft", lambda *_, **__: pytest.fail("crafted"))
    with pytest.raises(InputError) as caught:
        do_craft(made, "fgsm", tmp_path / "out", source="other")
    (line,) = str(caught.value).splitlines()
    assert line == "resnet/fgsm: expected a source for the labels 'a', 'b', 'c' (got one for 'c', 'b', 'a')"
    assert not list((tmp_path / "out").iterdir())
