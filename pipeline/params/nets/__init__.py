"""Architectures in numbers, read without loading torch."""
