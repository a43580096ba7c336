"""Section `data`: which images, what becomes of their size, and how they are split."""

from itertools import permutations
from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.bounds import Fraction, Images, OpenFraction, Seed, Side
from pipeline.params.sections import Section

FolderName = Annotated[str, Field(min_length=1)]


class ImagesPerClass(Section):
    """How many images of each class a part has at most, drawn by `seed`; null takes all.

    `perturbed`: the test images that noise and attacks are tried on.
    """

    train: Images | None
    validation: Images | None
    test: Images | None
    perturbed: Images | None
    seed: Seed


class DataSection(Section):
    """What every source has. `images_per_class` null takes all. `crop_px`: side of the square that a net sees; cut at
    random places in training, from the centre otherwise; null: no crop. `copies`: what becomes of an image that is in
    two parts of the split."""

    images_per_class: ImagesPerClass | None
    crop_px: Side | None
    copies: Literal["refuse", "allow"]


class FractionSplit(Section):
    """A stratified split by seed; fractions are of all images."""

    split_seed: Seed
    validation_fraction: OpenFraction
    test_fraction: OpenFraction

    @model_validator(mode="after")
    def _leave_training_images(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            together = f"{self.validation_fraction} + {self.test_fraction}"
            raise ValueError(f"validation_fraction + test_fraction: expected less than 1 (got {together})")
        return self


class DigitsData(DataSection, FractionSplit):
    """scikit-learn's handwritten digits, which need no file and no network."""

    source: Literal["digits"]


class FirstImages(Section):
    """Validation on the first training images, whatever their classes (the papers' CIFAR-10)."""

    rule: Literal["first"]
    images: Images


class FirstPerClass(Section):
    """Validation on the first training images of each class (the papers' MNIST)."""

    rule: Literal["first_per_class"]
    images: Images


class LastSharePerClass(Section):
    """Validation on the last share of each class's training images (the papers' CIFAR-100)."""

    rule: Literal["last_share_per_class"]
    share: OpenFraction


class StratifiedShare(Section):
    """Validation on a share of each class's training images, drawn by seed."""

    rule: Literal["stratified"]
    share: OpenFraction
    seed: Seed


ValidationRule = Annotated[
    FirstImages | FirstPerClass | LastSharePerClass | StratifiedShare, Field(discriminator="rule")
]


class ResizedData(DataSection):
    """`resize_px`: side of the square that images are resized to, whatever their shape, when a batch is made;
    null: as they are."""

    resize_px: Side | None

    @model_validator(mode="after")
    def _crop_within_resized(self) -> Self:
        if self.resize_px is not None and self.crop_px is not None and self.crop_px > self.resize_px:
            raise ValueError(f"crop_px: expected at most resize_px, {self.resize_px} (got {self.crop_px})")
        return self


class BenchmarkData(ResizedData):
    """A set that torchvision can download, or `<root>/<source>.npz` as `ArraysData` reads it."""

    source: Literal["mnist", "fashion_mnist", "cifar10", "cifar100"]
    root: FolderName
    download: bool
    validation: ValidationRule


class ArraysData(ResizedData):
    """An .npz of `x_train, y_train, x_test, y_test, classes`; with `x_validation, y_validation` in it,
    `validation` is null. Images are uint8 (n, height, width) or (n, height, width, 1 or 3)."""

    source: Literal["arrays"]
    file: FolderName
    validation: ValidationRule | None


class FolderData(ResizedData):
    """Image files. `resize_px`: side of the square that they are resized to, whatever their shape.

    `store: pixels` keeps the resized images; `index` keeps paths, sizes and hashes, and reads the files
    whenever they are needed, which is for sets that do not fit in memory. More unreadable files than
    `max_unreadable_share` of all stop the run.
    """

    root: FolderName
    resize_px: Side
    store: Literal["pixels", "index"]
    max_unreadable_share: Fraction


class FolderParts(Section):
    """Folders of class folders below `root`, `.` for itself; a part without one is split off `train`."""

    train: FolderName
    validation: FolderName | None
    test: FolderName | None

    @model_validator(mode="after")
    def _beside_each_other(self) -> Self:
        given = [(key, folder) for key, folder in self if folder is not None]
        for (_, one), (key, other) in permutations(given, 2):
            if PurePath(other).is_relative_to(one):
                raise ValueError(
                    f"{key}: expected folders that share no images (got {other!r} within {one!r})"
                )
        return self


class ImageFolderData(FolderData, FractionSplit):
    """Any folder of class folders. The fractions are of the training folder's images, and of use for the
    parts without a folder only."""

    source: Literal["image_folder"]
    folders: FolderParts


class ImageNetData(FolderData):
    """`train/` and `val/` folders of class folders; `val/` is the test part, as in the papers."""

    source: Literal["imagenet"]
    validation: ValidationRule


class PeopleFile(Section):
    """Test people as a list names them: LFW's own `peopleDevTest.txt`, or another of one name a line."""

    rule: Literal["people_file"]
    file: FolderName


class ShareOfPeople(Section):
    """Test people drawn by seed, as many of either label, from those who are not for validation."""

    rule: Literal["share_of_people"]
    share: OpenFraction
    seed: Seed


TestPeople = Annotated[PeopleFile | ShareOfPeople, Field(discriminator="rule")]


class LfwaData(FolderData):
    """Labeled faces in the wild with attributes, split by people.

    `images`: the folder of people's folders below `root`; `attributes`: the table there, as Kumar et al. publish
    it (`lfw_attributes.txt`). People whose last name starts with one of `validation_initials` are for validation
    (thesis 3.3: R to Z), unless `test` has them in a file. The thesis does not say who is for testing.
    """

    source: Literal["lfwa"]
    attribute: Literal["gender", "smile"]
    images: FolderName
    attributes: FolderName
    validation_initials: Annotated[str, Field(pattern="^[A-Z]-[A-Z]$")]
    test: TestPeople


Fold = Annotated[int, Field(ge=1, le=5)]


class AdienceData(FolderData):
    """Adience faces by age group or gender; the papers train on folds 1 to 3 (thesis 3.3).

    Folds are numbered from 1, as the papers do: fold 1 is `fold_0_data.txt`, fold 5 is `fold_4_data.txt`.
    `images`: `aligned` has in-plane aligned faces, `faces` those cut out as they are.
    """

    source: Literal["adience"]
    attribute: Literal["age", "gender"]
    images: Literal["aligned", "faces"]
    train_folds: Annotated[list[Fold], Field(min_length=1)]
    validation_folds: Annotated[list[Fold], Field(min_length=1)]
    test_folds: Annotated[list[Fold], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_fold_once(self) -> Self:
        folds = [*self.train_folds, *self.validation_folds, *self.test_folds]
        if len(set(folds)) != len(folds):
            raise ValueError(f"folds: expected each in one part only (got {folds})")
        return self


Data = Annotated[
    DigitsData | BenchmarkData | ArraysData | ImageFolderData | ImageNetData | LfwaData | AdienceData,
    Field(discriminator="source"),
]
