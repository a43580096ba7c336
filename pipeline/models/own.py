"""Nets that are not the project's: what a user's function makes, and timm's; and the weights that a user has for them.

No code runs from data: only from modules that the user names. `torch.load` reads bare tensors, here alone.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.errors import first_line
from pipeline.imports import may_be_called, own_code_digest, trust
from pipeline.models.classifier import load_state

# How many names a line holds.
_SHOWN = 3
# What timm would read or download weights by, with pickle where it likes.
_WEIGHTS_OF_TIMM = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
# The code of the modules that this process has imported, which stays in memory when a file is edited.
_imported: dict[str, str | None] = {}
# The nets that users' functions have made, for as long as they are there.
_made: WeakSet[nn.Module] = WeakSet()
# Types that weights may have in a file.
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class FactoryError(ValueError):
    """A user's function that cannot be had, or cannot be used: one line, with what to do."""


def build_from_factory(
    factory: str,
    *,
    options: Mapping[str, Any] | None = None,
    decision: str | None = None,
    factory_sha256: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """What a user's function makes, and the options that make it again.

    Args:
        factory: `module:function`; the module lies in the folder that Python was started in, or is installed.
        options: keyword arguments of the function.
        decision: the name of the linear layer whose outputs are the classes, where it is not the last one found.
        factory_sha256: of the module's code, see `own_code_digest`; None: as it is now.

    Raises:
        FactoryError: for a module that is not there or has other code, a function that is not in it or raises, and
            what is no net with such a layer.
    """
    module, _, function = factory.partition(":")
    code = own_code_digest(module)
    if factory_sha256 is not None and code not in (None, factory_sha256):
        raise FactoryError(
            f"expected the code of {module} to be that of factory_sha256, {factory_sha256} (got {code}); bring it "
            "back, or write the new one there where nothing has changed for this net"
        )
    make = _function(module, function, factory, code)
    trust(factory)
    try:
        net = make(**(options or {}))
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise FactoryError(f"{factory} raised {_raised(error)}") from None
    if not isinstance(net, nn.Module):
        raise FactoryError(f"{factory}: expected it to return a torch.nn.Module (got {type(net).__name__})")
    if net in _made:
        raise FactoryError(f"{factory}: expected a new net from every call (got one that it had made before)")
    _made.add(net)
    check_decision(net, decision, factory)
    return net, {"options": dict(options or {}), "decision": decision, "factory_sha256": code}


def check_origin(architecture: str) -> None:
    """Refuse to call a function only because a stored model names it: whoever wrote that file would run code.

    Raises:
        FactoryError: for a function that `may_be_called` does not let pass.
    """
    factory = architecture.removeprefix("python/")
    if factory != architecture and not may_be_called(factory):
        raise FactoryError(
            f"{factory}: expected a function in a module of the current folder, or one that you have named, as a file "
            f'alone runs no code; if you trust it, call pipeline.imports.trust("{factory}") first'
        )


def build_timm(
    name: str, num_classes: int, *, decision: str | None = None, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of timm with fresh weights, and the options that build it again.

    Args:
        name: as in `timm.list_models`.
        num_classes: the number of classes.
        decision: as for `build_from_factory`.
        **options: of `timm.create_model`, such as `in_chans`; none that brings weights.

    Raises:
        ValueError: where timm or its net is missing, or for an option that brings weights or is unknown.
    """
    try:
        import timm  # in an extra of its own, and 2 s to import
    except ImportError as error:
        raise FactoryError(f"expected timm to be installed: pip install timm ({error})") from None
    if not timm.is_model(name):
        alike = ", ".join(get_close_matches(name, timm.list_models(), cutoff=0))
        raise ValueError(f"expected a net of timm, such as {alike} (got {name!r})")
    if taken := [key for key in _WEIGHTS_OF_TIMM if key in options]:
        raise ValueError(f"expected weights from a file (weights), got timm's option {taken[0]}")
    try:
        net: nn.Module = timm.create_model(name, num_classes=num_classes, **options)
    except Exception as error:  # timm asserts, and raises what its parts do
        raise ValueError(f"timm's {name} raised {_raised(error)}") from None
    check_decision(net, decision, name)
    return net, {"decision": decision, **options}


def check_decision(net: nn.Module, decision: str | None, whose: str) -> None:
    """Refuse a net without a linear layer, or without the one that is to decide, and one that is not whole yet.

    Raises:
        FactoryError: naming the net, and the linear layers that it has.
    """
    linears = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if lazy := [name for name, parameter in net.named_parameters() if is_lazy(parameter)]:
        raise FactoryError(
            f"{whose}: expected parameters with shapes (got {_some(lazy)} of lazy modules); give their numbers of "
            "inputs, or call the net once on a blank image where it is made"
        )
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and "weight" not in dict(module.named_parameters()):
            raise FactoryError(
                f"{whose}: expected layers whose weights are parameters (got {name}, whose weight is computed from "
                "others); fold it in, as torch.nn.utils.parametrize.remove_parametrizations does"
            )
    if not linears:
        raise FactoryError(
            f"{whose}: expected a net with a linear layer, whose outputs are the classes (got none)"
        )
    if decision is not None and decision not in linears:
        raise FactoryError(
            f"decision: expected a linear layer of {whose}: {', '.join(linears)} (got {decision!r})"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a file of safetensors, or in one that `torch.save` wrote of a `state_dict`.

    Raises:
        ValueError: for a missing or damaged file, or one with anything else in it; no code in it is run.
    """
    if not path.is_file():
        raise ValueError(f"expected a file (got {str(path)!r})")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # safetensors' own
            raise ValueError(f"{path}: expected a file of safetensors ({_raised(error)})") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own
        raise ValueError(
            f"{path}: expected tensors alone, as torch.save(net.state_dict(), ...) writes them; code in a file is "
            f"never run (got {type(error).__name__})"
        ) from None
    by_name = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not by_name or not all(isinstance(value, Tensor) for value in state.values()):
        keys = f" with {_some(list(map(str, state)))}" if isinstance(state, Mapping) else ""
        raise ValueError(
            f"{path}: expected a state_dict, tensors by name (got {type(state).__name__}{keys}); save net.state_dict()"
        )
    if odd := [
        name for name, each in state.items() if each.layout != torch.strided or each.device.type != "cpu"
    ]:
        raise ValueError(f"{path}: expected dense tensors with values (got others in {_some(odd)})")
    return dict(state)


def fill_with_weights(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put a user's weights into a net, bit for bit; every one has to have its place.

    Raises:
        ValueError: naming what is missing, unknown, or of another shape.
    """
    own = net.state_dict()
    problems = {
        "lacks": [name for name in own if name not in state],
        "has in addition": [name for name in state if name not in own],
        "has in another shape": [
            f"{name} {_shape(state[name])} for {_shape(tensor)}"
            for name, tensor in own.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "has in another kind of number": [
            f"{name} {state[name].dtype}"
            for name, tensor in own.items()
            if name in state and tensor.dtype in _REAL and state[name].dtype not in _REAL
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{what} {_some(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{path}: expected the weights of this net; the file {found}")
    load_state(net, state)


def _function(module: str, function: str, factory: str, code: str | None) -> Any:
    try:
        invalidate_caches()
        found = import_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's code raises while it is imported
        raise FactoryError(
            f"{factory}: expected a module that can be imported (got {_raised(error)}); start Python in the "
            "folder where it lies, or install it"
        ) from None
    if _imported.setdefault(module, code) != code:
        raise FactoryError(f"{module}: its code has changed since this process imported it; start again")
    make = getattr(found, function, None)
    if not callable(make):
        raise FactoryError(f"{factory}: expected a function of {module} (got {type(make).__name__})")
    return make


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _raised(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
