"""Seeds, threads and device: set before anything is built."""

import hashlib
import os

import torch

from pipeline.errors import InputError
from pipeline.params import Runtime


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


def configure_torch(runtime: Runtime) -> torch.device:
    """Set threads, determinism and denormals, and return the device that the params ask for.

    Raises:
        InputError: if the machine has no such device.
    """
    # cuBLAS reads it when it is loaded; without it deterministic algorithms refuse to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(runtime.threads)
    # A push drives activations towards zero; denormals there cost a fifth of the training time.
    torch.set_flush_denormal(True)
    # As use_deterministic_algorithms, which would import torch's compiler: two seconds in every stage.
    torch.set_deterministic_debug_mode("error" if runtime.device == "cpu" else "warn")
    chosen = runtime.device
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[chosen]:
        expected = ", ".join(name for name, there in present.items() if there)
        raise InputError(
            f"params.yaml: runtime.device: expected auto or what this machine has, {expected} (got {chosen})"
        )
    # Of several processes each has its own GPU.
    return torch.device(chosen, torch.cuda.current_device()) if chosen == "cuda" else torch.device(chosen)
