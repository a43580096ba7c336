"""Width multipliers."""


def scaled_width(channels: int, width: float) -> int:
    """Channels under a width multiplier, never fewer than one.

    Raises:
        ValueError: if the multiplier is not positive.
    """
    if width <= 0:
        raise ValueError(f"expected a positive width multiplier, got {width}")
    return max(1, round(channels * width))
