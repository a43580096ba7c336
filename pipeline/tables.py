"""The columns of tables that may be empty, and the names of the models that are compared."""

SAMPLE_FIELDS = (
    "seed",
    "round",
    "eta",
    "latent_kept",
    "params",
    "flops",
    "n",
    "n_correct",
    "acceptable",
    "chosen",
)
LAYER_FIELDS = ("seed", "round", "eta", "layer", "group", "threshold", "n_before", "n_after")
LATENT_FIELDS = ("seed", "round", "rank", "neuron", "v", "n", "n_correct", "kept")

# What is evaluated and attacked, with the folder and file of each below `runs/<name>/<seed>`.
MODELS: dict[str, tuple[str, str]] = {
    "base": ("train", "model"),
    "grown": ("grow", "model"),
    "pushed": ("push", "model"),
    "accuracy_first": ("select", "accuracy_first"),
    "parameter_first": ("select", "parameter_first"),
}
