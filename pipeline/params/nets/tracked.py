"""Users' own weights and code, which params.yaml names together with their hashes: both are checked; no torch."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.imports import own_code_digest
from pipeline.params.nets.sections import OwnModel, PythonModel, SavedModel, TrackedFile
from pipeline.params.sections import Section


def stale_hashes(nets: Mapping[str, Section]) -> Iterator[str]:
    """A line for each hash that is not that of the file, or of the code, which lies there now.

    A file or module that cannot be found has no line here: whoever builds the net says so.

    Args:
        nets: sections that describe a net, by their places in params.yaml.
    """
    for place, net in nets.items():
        if isinstance(net, TrackedFile) and (weights := weights_file(net)) and weights.is_file():
            with weights.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != net.sha256:
                yield _line(f"{place}.sha256", found, str(weights), net.sha256)
        if isinstance(net, PythonModel):
            module = net.factory.partition(":")[0]
            code = own_code_digest(module)
            if code not in (None, net.factory_sha256):
                yield _line(f"{place}.factory_sha256", str(code), f"the code of {module}", net.factory_sha256)


def weights_file(net: Section) -> Path | None:
    """The file that a net's weights come from; None without one."""
    if isinstance(net, SavedModel):
        return Path(f"{net.path.removesuffix('.safetensors')}.safetensors")
    return Path(net.weights) if isinstance(net, OwnModel) and net.weights is not None else None


def _line(key: str, found: str, whose: str, given: str | None) -> str:
    return f"{key}: expected {found}, that of {whose} (got {given or 'null'})"
