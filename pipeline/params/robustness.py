"""Sections on robustness: the sources of attacks, who is attacked, and the comparison."""

from pipeline.params.bounds import Bins, Fraction, OpenFraction, Pictures, Seed
from pipeline.params.nets.sections import Architecture
from pipeline.params.pruning import Competitor
from pipeline.params.sections import Section
from pipeline.params.training import ShuffledSchedule


class Source(Section):
    """A third model that attacks are crafted on; under the stated accuracy it is refused."""

    model: Architecture
    training: ShuffledSchedule
    min_validation_accuracy: Fraction


class Lineup(Section):
    """Who is attacked beside the models of the main flow: ours and `competitors` at one of `compare.sizes`."""

    fraction: OpenFraction
    competitors: list[Competitor]


class Robustness(Section):
    """How the comparison is made."""

    calibration_bins: Bins
    gallery_images: Pictures
    gallery_seed: Seed
