"""Names of nets and attacks that are read off the installed sources: the same that importing them would tell."""

import foolbox
import pytest
import torchvision.models as zoo

from pipeline.params import installed_names
from pipeline.params.installed_names import foolbox_attacks, torchvision_classifiers


def test_the_classifiers_are_those_that_torchvision_lists() -> None:
    assert torchvision_classifiers() == set(zoo.list_models(module=zoo))


def test_no_net_of_another_task_is_a_classifier() -> None:
    others = set(zoo.list_models()) - set(zoo.list_models(module=zoo))
    assert {"fasterrcnn_resnet50_fpn", "fcn_resnet50", "raft_small"} <= others
    assert not torchvision_classifiers() & others


def test_the_attacks_are_the_public_classes_of_foolbox() -> None:
    found = {
        name
        for name, value in vars(foolbox.attacks).items()
        if isinstance(value, type) and issubclass(value, foolbox.Attack)
    }
    assert foolbox_attacks() == found - {"Attack"}  # which is what all of them are made from
    assert {"LinfPGD", "LinfProjectedGradientDescentAttack"} <= foolbox_attacks()  # other names count


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_names, "find_spec", lambda _name: None)
    for names, package in ((foolbox_attacks, "foolbox"), (torchvision_classifiers, "torchvision")):
        with pytest.raises(
            ModuleNotFoundError, match=f"expected {package} to be installed; run `make setup`"
        ):
            names.__wrapped__()
