"""Every kind of number that params take, with both of its bounds.

They lie past any sensible use, and within what can be computed. A test
walks the schema and fails for a number without both.
"""

from typing import Annotated

from pydantic import Field

# Shares of a whole, with or without its ends.
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]

# scikit-learn and numpy take no larger ones.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

# Images, of a class or of a part; of a batch, where two are the fewest that batch norm takes; and in a gallery.
Images = Annotated[int, Field(gt=0, le=100_000_000)]
BatchSize = Annotated[int, Field(ge=2, le=1_000_000)]
EvalBatchSize = Annotated[int, Field(gt=0, le=1_000_000)]
ClassesPerBatch = Annotated[int, Field(ge=2, le=1_000_000)]
SamplesPerClass = Annotated[int, Field(ge=8, le=100_000)]
Pictures = Annotated[int, Field(gt=0, le=50)]

# Pixels along a side, and how far an image is shifted: see `fitting` for what fits an image.
Side = Annotated[int, Field(gt=0, le=10_000)]
Shift = Annotated[int, Field(ge=0, le=10_000)]

# Means and deviations of pixels on the 0-1 scale.
PixelMean = Annotated[float, Field(ge=-10, le=10)]
PixelDeviation = Annotated[float, Field(ge=1e-6, le=10)]

# How often: epochs, iterations of growing, rounds of pruning, steps of an attack, resamples.
Epochs = Annotated[int, Field(gt=0, le=100_000)]
WarmupEpochs = Annotated[int, Field(ge=0, le=100_000)]
Iterations = Annotated[int, Field(gt=0, le=1_000)]
Steps = Annotated[int, Field(gt=0, le=1_000_000)]
Resamples = Annotated[int, Field(ge=100, le=1_000_000)]

# Of nets: neurons or channels of a layer, modules of a stage, the multiplier of all channels, and whole nets.
Channels = Annotated[int, Field(gt=0, le=100_000)]
Dimensions = Annotated[int, Field(ge=0, le=100_000)]
Modules = Annotated[int, Field(gt=0, le=1_000)]
Pool = Annotated[int, Field(gt=0, le=100)]
Kernel = Annotated[int, Field(ge=1, le=99)]
Width = Annotated[float, Field(gt=0, le=100)]
Weights = Annotated[int, Field(gt=0, le=10**13)]
Flops = Annotated[int, Field(gt=0, le=10**18)]
Mebibytes = Annotated[float, Field(gt=0, le=1e9)]

# Of optimisers and losses.
LearningRate = Annotated[float, Field(gt=0, le=100)]
WeightDecay = Annotated[float, Field(ge=0, le=10)]
GradientNorm = Annotated[float, Field(gt=0, le=1e9)]
LossWeight = Annotated[float, Field(ge=0, le=1e6)]
PositiveLossWeight = Annotated[float, Field(gt=0, le=1e6)]
# Thresholds, in standard deviations of a layer's utilities.
Eta = Annotated[float, Field(gt=0, le=1_000)]

# Of noise: less than the least is lost where images are stored in half precision; the most leaves nothing to see.
Deviation = Annotated[float, Field(ge=0.1, le=2_550)]
Strength = Annotated[float, Field(ge=0.0001, le=100)]
Photons = Annotated[float, Field(ge=0.001, le=1e9)]
# Of attacks, on the 0-255 scale: of a pixel, and of whole images in any norm.
PixelBudget = Annotated[float, Field(ge=0.1, le=255)]
Budget = Annotated[float, Field(ge=0.1, le=1e12)]
NewtonEta = Annotated[float, Field(ge=1e-6, le=100)]
# The largest budget by its norm: those of a hundred million pixels.
BUDGETS = {"L0": 1e9, "L1": 1e12, "L2": 1e7, "Linf": 255.0}

# Of reports.
Bins = Annotated[int, Field(ge=2, le=1_000)]
Dpi = Annotated[int, Field(ge=50, le=600)]

# Of machines. Threads end with a segmentation fault where the system has no more of them.
Threads = Annotated[int, Field(gt=0, le=512)]
MOST_PROCESSES = 1_024
Processes = Annotated[int, Field(gt=0, le=MOST_PROCESSES)]
Readers = Annotated[int, Field(ge=0, le=256)]
Gibibytes = Annotated[float, Field(gt=0, le=1e6)]
