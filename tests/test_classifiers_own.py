"""A user's own net and weights as the params name them: taken as they are, or refused in one line."""

import hashlib
from pathlib import Path
from typing import Any

import own_nets
import pytest
import torch
from builders import NUMERICS, parts
from test_classifiers_saved import image_set
from tiny_params import PYTHON, TIMM
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.images.parts import Parts
from pipeline.imports import own_code_digest
from pipeline.models.classifier import Classifier, decision_layer
from pipeline.params.nets.sections import PythonModel, TimmModel
from pipeline.training.brought import look_at, suspicion
from pipeline.training.classifiers import build_classifier

CODE = own_code_digest("own_nets")


def python(function: str = "viewed", **changes: Any) -> PythonModel:
    section = {**PYTHON, "factory": f"own_nets:{function}", "factory_sha256": CODE, "options": {}}
    return PythonModel.model_validate(section | changes)


def weights(path: Path, net: nn.Module, **changes: Any) -> dict[str, Any]:
    """The keys of a section that name a file of this net's weights."""
    torch.save(net.state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"weights": str(path), "sha256": sha256} | changes


def classifier(section: PythonModel | TimmModel, data: Parts) -> Classifier:
    return build_classifier(section, data.image_set, wanted_for="model")


def line_of(section: PythonModel | TimmModel, data: Parts) -> str:
    with pytest.raises(InputError) as caught:
        classifier(section, data)
    (line,) = str(caught.value).splitlines()
    return line


def trained_elsewhere(function: str = "viewed") -> nn.Module:
    torch.manual_seed(7)
    net: nn.Module = getattr(own_nets, function)()
    net.train()(torch.rand(16, 1, 8, 8))
    return net.eval()


def images_of(n: int = 6) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_weights_and_normalization_are_the_users(tmp_path: Path) -> None:
    net = trained_elsewhere()
    normalization = {"mean": [0.25], "std": [0.75]}
    model = classifier(python(**weights(tmp_path / "mine.pt", net), normalization=normalization), parts())
    assert model.classes == ("a", "b", "c")
    for name, tensor in net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], tensor), name
    with torch.no_grad():
        assert torch.equal(model.eval()(images_of()), net((images_of() - 0.25) / 0.75))


def test_without_a_normalization_it_is_that_of_the_training_images(tmp_path: Path) -> None:
    data = parts()
    model = classifier(python(**weights(tmp_path / "mine.pt", trained_elsewhere())), data)
    train = data.train.images.double() / 255  # type: ignore[union-attr]
    assert float(model.mean) == pytest.approx(float(train.mean()))
    assert float(model.std) == pytest.approx(float(train.std(correction=0)))


@pytest.mark.parametrize("function", ["viewed", "head_first"])
def test_classes_in_another_order_are_put_in_that_of_the_data(function: str, tmp_path: Path) -> None:
    net = trained_elsewhere(function)
    found = weights(tmp_path / "mine.pt", net, classes=["c", "a", "b"])
    found |= {"normalization": {"mean": [0.0], "std": [1.0]}}
    found |= {"decision": "head"} if function == "head_first" else {}
    model = classifier(python(function, **found), parts()).eval()
    with torch.no_grad():
        logits, theirs = model(images_of()), net(images_of())
    assert model.classes == ("a", "b", "c")
    for own, place in (("a", 1), ("b", 2), ("c", 0)):
        torch.testing.assert_close(logits[:, model.classes.index(own)], theirs[:, place])


def test_an_order_that_the_decision_layer_does_not_have_is_refused(tmp_path: Path) -> None:
    found = weights(tmp_path / "mine.pt", trained_elsewhere("mixed"), decision="head")
    assert classifier(python("mixed", **found), parts()).classes == ("a", "b", "c")
    line = line_of(python("mixed", **found, **{"classes": ["c", "a", "b"]}), parts())
    assert (
        "the net's logits are not the outputs of its decision layer (got them in the order c, a, b)" in line
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factory": "own_nets:raising"}, "model: own_nets:raising raised KeyError: 'no such net"),
        ({"factory": "own_nets:exits"}, "model: own_nets:exits raised SystemExit: 3"),
        ({"factory": "own_nets:no_module"}, "expected it to return a torch.nn.Module (got list)"),
        ({"factory": "own_nets:all_convolutions"}, "expected a net with a linear layer"),
        ({"options": {"classes": 4}}, "logits for 3 classes, of shape (2, 3) for two images (got (2, 4))"),
        (
            {"options": {"channels": 3}},
            "expected a net that takes images of 1x8x8, python/own_nets:viewed does not",
        ),
        ({"decision": "hidden"}, "model.decision: expected the linear layer whose 3 outputs are the classes"),
        (
            {"factory_sha256": "0" * 64},
            f"model.factory_sha256: expected {CODE}, that of the code of own_nets (got 00",
        ),
        ({"weights": "gone.pt", "sha256": "0" * 64}, "model: expected a file (got 'gone.pt')"),
        ({"normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}, "for each of 1 channels (got 3 and 3)"),
        ({"classes": ["a", "b"]}, "for the 3 classes of the data, got one for 2, without 'c' and with none"),
        ({"classes": ["a", "b", "b"]}, "got one for 3, without 'c' and with none"),
    ],
)
def test_a_net_that_does_not_fit_is_one_line(changes: dict[str, Any], words: str) -> None:
    line = line_of(python(**changes), parts())
    assert line.startswith("params.yaml: model")
    assert words in line


def test_another_size_of_images_than_the_nets_is_one_line() -> None:
    data = Parts(*[parts().train] * 3, image_set(("ant", "bee", "cat")))
    line = line_of(python(), data)
    assert (
        "expected a net that takes images of 1x6x6, python/own_nets:viewed does not (addmm: mat1 and mat2"
        in line
    )


def test_weights_of_another_net_are_one_line(tmp_path: Path) -> None:
    found = weights(tmp_path / "mine.pt", own_nets.viewed(classes=4))
    line = line_of(python(**found), parts())
    assert (
        "expected the weights of this net; the file has in another shape head.weight (4, 10) for (3, 10)"
        in line
    )
    found = weights(tmp_path / "mine.pt", own_nets.head_first())
    assert "the file lacks first.weight, norm.weight, norm.bias and " in line_of(python(**found), parts())


def test_other_weights_than_those_of_the_hash_are_one_line(tmp_path: Path) -> None:
    found = weights(tmp_path / "mine.pt", trained_elsewhere())
    torch.save(own_nets.viewed().state_dict(), tmp_path / "mine.pt")
    assert line_of(python(**found), parts()).startswith("params.yaml: model.sha256: expected ")
    assert line_of(python(**found | {"sha256": None}), parts()).endswith("(got null)")


def test_a_net_of_timm_takes_weights_and_the_channels_of_the_data(tmp_path: Path) -> None:
    import timm

    options = {"channels": [4, 8, 8, 8], "stem_width": 4}
    net = timm.create_model("resnet18", num_classes=3, in_chans=1, **options).eval()
    section = TIMM | weights(tmp_path / "mine.pt", net, options=options)
    section |= {"normalization": {"mean": [0.5], "std": [0.5]}}
    model = classifier(TimmModel.model_validate(section), parts()).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images_of()), net(images_of() * 2 - 1))
    assert decision_layer(model).out_features == 3


class Rows(nn.Module):
    """Knows the classes of `builders.parts`, which are bright in their own rows, in the order that it is told."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to (n, 3)."""
        return torch.stack([x[:, 0, 3 * each : 3 * each + 2].mean((1, 2)) for each in self.order], 1)


def looked_at(net: nn.Module) -> tuple[float, str]:
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.0], std=[1.0], classes=("ant", "bee", "cat"))
    score, doubt = look_at(model, parts().validation, batch_size=NUMERICS.eval_batch_size)
    return score.accuracy, doubt


def test_weights_that_know_the_images_are_not_suspicious() -> None:
    assert looked_at(Rows([0, 1, 2])) == (1.0, "")


def test_classes_in_another_order_are_said_with_who_is_called_what() -> None:
    accuracy, doubt = looked_at(Rows([1, 0, 2]))
    assert accuracy == pytest.approx(1 / 3, abs=0.1)
    assert (
        "15 if classes are exchanged: the weights were probably trained with the classes in another order"
        in doubt
    )
    assert doubt.endswith("as they say 'bee' for 'ant', 'ant' for 'bee'")


def test_guessing_is_said_to_be_no_better_than_chance() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3)

    assert looked_at(Constant())[1] == (
        "5 of 15 right on validation, no better than chance: the weights probably need another normalization "
        "(on the 0-1 scale), or were trained for something else"
    )


@pytest.mark.parametrize(
    ("confusion", "cause"),
    [
        ([[90, 10], [10, 90]], ""),
        ([[10, 90], [90, 10]], "another order"),
        ([[50, 50], [50, 50]], "no better than chance"),
        (
            [[35, 65], [65, 35]],
            "no better than chance",
        ),  # exchanged: 35 % wrong in place of 65 %, not half as many
        ([[60, 40, 0], [40, 60, 0], [0, 0, 100]], ""),
        ([[5, 95, 0], [95, 5, 0], [0, 0, 100]], "another order"),
        ([[0, 0, 4], [0, 0, 3], [0, 0, 3]], "no better than chance"),
    ],
)
def test_what_a_confusion_matrix_says(confusion: list[list[int]], cause: str) -> None:
    doubt = suspicion(torch.tensor(confusion), ("a", "b", "c")[: len(confusion)])
    assert (cause in doubt) if cause else doubt == ""


def test_many_exchanged_classes_are_counted() -> None:
    names = [f"class {idx}" for idx in range(8)]
    doubt = suspicion(10 * torch.eye(8, dtype=torch.int64).roll(1, 1), names)
    assert doubt.endswith(
        "'class 1' for 'class 0', 'class 2' for 'class 1', 'class 3' for 'class 2', 'class 4' for "
        "'class 3' and 4 more"
    )
