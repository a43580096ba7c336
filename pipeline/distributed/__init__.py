"""Several processes that train one net: how they start, what they exchange, what each holds."""
