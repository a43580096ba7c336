"""Classes of fewer images than a batch of the push draws."""

from collections.abc import Sequence

_SHOWN = 5


def rare_classes_remark(classes: Sequence[str], counts: Sequence[int], samples_per_class: int) -> str | None:
    """A sentence on the classes whose images a class-balanced batch repeats; None without any.

    Args:
        classes: names.
        counts: training images of each.
        samples_per_class: images of each class in a batch.
    """
    rare = [(name, n) for name, n in zip(classes, counts, strict=True) if n < samples_per_class]
    if not rare:
        return None
    shown = ", ".join(f"{name} ({n})" for name, n in rare[:_SHOWN]) + (", ..." if len(rare) > _SHOWN else "")
    return (
        f"fewer training images than the {samples_per_class} of each class in a batch (lda.samples_per_class): "
        f"{shown}; the push repeats them within a batch, so that their scatter is of these few images alone"
    )
