"""What noise and attacks do: the page, accuracy against strength, corruption errors, calibration, galleries."""
