"""What params.yaml may hold: one frozen model per section, no defaults, unknown keys refused; no torch."""
