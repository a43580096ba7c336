"""What many tests start from: settings, a small data set, weights of the push."""

from typing import Any

import numpy as np
import torch

from pipeline.images.image_set import ImageSet
from pipeline.images.parts import Images, Parts
from pipeline.params.machine import Numerics
from pipeline.params.training import Lda, RmsProp, Schedule, Sgd

NUMERICS = Numerics(
    device="cpu",
    precision="float32",
    compile=False,
    devices=1,
    num_nodes=1,
    strategy="ddp",
    threads=1,
    eval_batch_size=7,
)
torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


def sgd(**changes: Any) -> Sgd:
    """Plain momentum."""
    fields = {"method": "sgd", "momentum": 0.9, "clip_grad_norm": None, "average_weights": None}
    return Sgd(**(fields | changes))


def rms_prop(**changes: Any) -> RmsProp:
    """That of "Rethinking Inception", section 8."""
    fields = sgd().model_dump() | {"method": "rmsprop", "decay": 0.9, "epsilon": 1.0}
    return RmsProp(**(fields | changes))


def schedule(**changes: Any) -> Schedule:
    """A few short epochs on whatever batches a test makes."""
    fields: dict[str, Any] = {
        "epochs": 5,
        "batch_size": None,
        "learning_rate": 0.05,
        "optimizer": sgd(),
        "weight_decay": 0.001,
        "decision_weight_decay": 0.001,
        "warmup_epochs": 1,
        "label_smoothing": 0.0,
        "shift_px": 1,
        "mirror": False,
    }
    return Schedule(**(fields | changes))


def parts(n: int = 40) -> Parts:
    """Three classes: bright in the upper, middle or lower rows of 8x8."""
    random = np.random.default_rng(0)
    labels = (np.arange(n) % 3).astype(np.int64)
    images = random.integers(0, 80, size=(n, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 * label : 3 * label + 2] += 150
    idx = np.arange(n)
    split = {"train": idx[: n // 2], "validation": idx[n // 2 : -5], "test": idx[-5:]}
    image_set = ImageSet(images, labels, ("a", "b", "c"), split)  # type: ignore[arg-type]

    def part(name: str) -> Images:
        found, of_them = image_set.part(name)  # type: ignore[arg-type]
        return Images(torch.from_numpy(found), torch.from_numpy(of_them))

    return Parts(part("train"), part("validation"), part("test"), image_set)


def lda_weights(**changes: Any) -> Lda:
    """A push that is strong enough to be seen in every term."""
    fields: dict[str, Any] = {
        "separation": "trace",
        "gamma": 0.5,
        "lambda": 0.01,
        "beta": 0.02,
        "ridge": 1e-3,
        "active_variance": 1e-4,
        "align_max_dim": 64,
        "classes_per_batch": None,
        "samples_per_class": 8,
        "collapse_share": 0.999,
    }
    return Lda(**(fields | changes))
