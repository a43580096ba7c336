"""The README's walk: its edits of params.yaml, as they stand there, make params of which the net can be pruned."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torchvision.models import resnet18

from pipeline.errors import InputError
from pipeline.net_check import check_net
from pipeline.params.file import read_params

CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")


def merged(whole: dict[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """`edits` below what is there, key by key; a net with another architecture is another section."""
    for key, value in edits.items():
        deeper = isinstance(value, dict) and key in whole and "architecture" not in value
        whole[key] = merged(dict(whole[key]), value) if deeper else value
    return whole


def test_the_edits_of_the_walk_name_a_net_that_can_be_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(ROOT / "docs/walk/my_nets.py", tmp_path)
    torch.manual_seed(0)
    save_file(resnet18(num_classes=5).state_dict(), "mine.safetensors")
    for part in ("train", "validation", "test"):
        for name in CLASSES:
            (tmp_path / "photographs" / part / name).mkdir(parents=True)
            pixels = np.zeros((80, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photographs" / part / name / "0.jpg")
    readme, yaml = (ROOT / "README.md").read_text("utf-8"), YAML(typ="safe")
    (edits,) = re.findall(r"```yaml\n(name: photographs\n.+?)```", readme, flags=re.DOTALL)
    params = merged(
        yaml.load((ROOT / "presets/image_folder_small.yaml").read_text("utf-8")), yaml.load(edits)
    )
    file = tmp_path / "params.yaml"

    def write() -> None:
        with file.open("w", encoding="utf-8") as opened:
            yaml.dump(params, opened)

    write()
    with pytest.raises(InputError) as raised:
        read_params(file)
    hashes = dict(re.findall(r"model\.(\w+): expected ([0-9a-f]{64})", str(raised.value)))
    assert sorted(hashes) == ["factory_sha256", "sha256"]
    params["model"] |= hashes
    write()
    assert check_net(read_params(file)) == ""
