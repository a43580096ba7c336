"""Markdown pieces that both reports use."""

from collections.abc import Iterable, Sequence


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it, part by part on lines of their own."""
    return "\n".join([f"## {title}", "", *parts])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the first column left, the others right."""
    alignment = [":--", *["--:"] * (len(header) - 1)]
    lines = [header, alignment, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def image(name: str, alternative: str) -> str:
    """A figure by its PNG, with the SVG one click away."""
    return f"[![{alternative}](figures/{name}.png)](figures/{name}.svg)\n"


def percent(fraction: float, *, signed: bool = False) -> str:
    """`98.52` or `+0.28`, in percent; what rounds to nothing is `+0.00`."""
    value = round(100 * fraction, 2) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def thousands(count: float) -> str:
    """`12,345`."""
    return f"{round(count):,}"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _escape(cell: object) -> str:
    return str(cell).replace("|", "\\|")
