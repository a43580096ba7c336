"""Seeds: set before anything is built."""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from what it is for; different uses of one seed get unrelated streams."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_torch(*parts: int | str) -> None:
    """Seed torch's global generators (initial weights, dropout) for the use that `parts` name."""
    torch.manual_seed(derive_seed(*parts))


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own for the use that `parts` name."""
    return torch.Generator().manual_seed(derive_seed(*parts))
