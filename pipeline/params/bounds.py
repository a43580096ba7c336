"""The largest numbers that params take: each far past any sensible use, and small enough to be computed with."""

# A seed is one of numpy's and torch's.
SEED = 2**32 - 1
# Of images, epochs, steps, rounds, resamples and whatever else is counted one by one.
COUNT = 1_000_000
# Of a batch, of channels and neurons in a layer, of pixels along a side.
BATCH, CHANNELS, SIDE = 1_000_000, 100_000, 10_000
# Of modules in a stage, and of those that are grown.
MODULES = 1_000
# Of the width multiplier.
WIDTH = 100
# Of learning rates, weights of losses, decays, and of thresholds in standard deviations.
RATE, WEIGHT, DECAY, ETA = 100, 1_000_000, 10, 1_000
# Of the peak of photons, and of noise's deviation as a share of the pixel's range.
PHOTONS, STRENGTH = 1_000_000_000, 100
# Of processes, threads, machines and jobs; of a store.
PROCESSES, THREADS, STORE_GIB = 10_000, 1_024, 1_000_000
# Of a net's parameters, FLOPs and MiB.
PARAMS, FLOPS, MEMORY_MIB = 10**13, 10**18, 10**9
# Of calibration's bins and of pictures in a gallery.
BINS, PICTURES = 10_000, 100
# Of an attack's budget, by its norm, on the 0-255 scale: those of many million pixels.
BUDGETS = {"L0": 1e9, "L1": 1e12, "L2": 1e6, "Linf": 255.0}
