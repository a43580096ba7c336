"""The columns of tables that may be empty, and the names of the models that are compared."""

SAMPLE_FIELDS = (
    "seed",
    "round",
    "sample",
    "eta",
    "latent_kept",
    "params",
    "flops",
    "n",
    "n_correct",
    "acceptable",
    "chosen",
)
LAYER_FIELDS = ("seed", "round", "sample", "layer", "group", "threshold", "n_before", "n_after")
LATENT_FIELDS = ("seed", "round", "rank", "neuron", "v", "n", "n_correct", "n_correct_pca", "kept")
COMPARISON_FIELDS = (
    "seed",
    "method",
    "step",
    "params",
    "flops",
    "epochs",
    "validation_n",
    "validation_n_correct",
    "test_n",
    "test_n_correct",
)
# One row a seed; eigenvalues of Eq. 6 on training images, `collapsed` the share of the last epoch's batches. A
# push that diverged has none of the numbers.
VARIANT_FIELDS = ("seed", "variant", "n", "n_correct", "n_active", "v_sum", "v_top", "collapsed")

# Of the paired bootstrap within a seed; those over seeds are `report.confidence`.
CONFIDENCE_LEVEL = 0.95

# The method of this project in the comparison's tables.
OURS = "ours"

# What is evaluated and attacked, with the folder and file of each below `runs/<name>/<seed>`.
MODELS: dict[str, tuple[str, str]] = {
    "base": ("train", "model"),
    "grown": ("grow", "model"),
    "control": ("control", "model"),
    "pushed": ("push", "model"),
    "accuracy_first": ("select", "accuracy_first"),
    "parameter_first": ("select", "parameter_first"),
}
