"""The example of docs/nets.md, done as it is written."""

import re
import sys
from pathlib import Path

import pytest
import torch
from builders import parts
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_params import edited, params_of

from pipeline.errors import InputError
from pipeline.models import own
from pipeline.models.classifier import decision_layer
from pipeline.params.file import read_params
from pipeline.training.classifiers import build_net

SECTION = (ROOT / "docs/nets.md").read_text(encoding="utf-8").partition("\n## Your own net\n")[2]


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_of_a_net_of_ones_own_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = block("python")
    Path(re.match(r"# (\S+)\n", code)[1]).write_text(code)  # type: ignore[index]
    model = YAML(typ="safe").load(block("yaml"))["model"]
    torch.manual_seed(3)
    import my_nets  # type: ignore[import-not-found]

    net = my_nets.make_net(**model["options"])
    saves = re.search(r"`(torch\.save\(.*?\))`", SECTION)
    assert saves is not None
    assert saves[1] == 'torch.save(net.state_dict(), "my_net.pt")'
    torch.save(net.state_dict(), "my_net.pt")

    whole = edited(("model", model), ("grow", None))
    whole["train"]["training"] |= {"epochs": 0, "warmup_epochs": 0}
    with Path("params.yaml").open("w") as file:
        YAML().dump(whole, file)
    with pytest.raises(InputError) as caught:
        read_params(Path("params.yaml"))
    said = dict(re.findall(r"model\.(\w+): expected (\w{64}), that of .* \(got null\)", str(caught.value)))
    assert sorted(said) == ["factory_sha256", "sha256"]
    params = params_of(("model", model | said), ("grow", None))
    try:
        built = build_net(params.model, 10, parts().image_set.image_shape, wanted_for="model")
        assert decision_layer(built) is built.get_submodule("classifier")
        for name, tensor in net.state_dict().items():
            assert torch.equal(built.state_dict()[name], tensor)
    finally:
        sys.modules.pop("my_nets")
        own._imported.pop("my_nets", None)
