"""Reading params.yaml: every error at once, one line each, before any stage starts."""

import argparse
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import InputError, line_of
from pipeline.params.nets.tracked import stale_hashes
from pipeline.params.params import Params

PARAMS_FILE = Path("params.yaml")
PRESETS = Path("presets")
_SCHEDULES = ("training", "retraining")


def read_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check a params file.

    The hashes of users' own weights and code are those of what lies there: an edit is another setting, or is refused.

    Raises:
        InputError: with a line `FILE: KEY: what is allowed (got VALUE)` for every error found.
    """
    params = check_params(_read_yaml(path), path)
    if stale := [f"{path}: {line}" for line in stale_hashes(params.nets)]:
        raise InputError("\n".join(stale))
    return params


def check_params(data: Any, path: Path = PARAMS_FILE) -> Params:
    """Check what a params file holds; `path` is the file that the errors name.

    Raises:
        InputError: as `read_params`.
    """
    try:
        # By way of JSON: strict there still means "an integer is no string", and a YAML list is a list.
        text = json.dumps(data, default=_refuse)
        return Params.model_validate_json(text)
    except ValidationError as error:
        checked = json.loads(text)  # keys are strings there, and sections with one anchor are apart
        details = error.errors(include_url=False)
        lines = _once([line for detail in details for line in _describe(detail, checked)])
        raise InputError("\n".join(f"{path}: {line}" for line in lines)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None


def use_preset(name: str, *, presets: Path = PRESETS, target: Path = PARAMS_FILE) -> None:
    """Make a preset the current params; the preset is checked first.

    Raises:
        InputError: for an unknown preset, or one that does not pass.
    """
    known = sorted(path.stem for path in presets.glob("*.yaml"))
    if name not in known:
        raise InputError(f"preset: expected one of {', '.join(known)} (got {name!r})")
    read_params(presets / f"{name}.yaml")
    temporary = target.with_suffix(".yaml.new")
    shutil.copyfile(presets / f"{name}.yaml", temporary)
    temporary.replace(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Check a file and the net that it names, or switch to a preset; prints each error on a line and exits with 1."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.params", description=main.__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=PARAMS_FILE)
    parser.add_argument("--preset", metavar="NAME", help="make presets/NAME.yaml the current params.yaml")
    options = parser.parse_args(arguments)
    try:
        if options.preset is not None:
            use_preset(options.preset)
            return
        read_params(options.file)
    except (InputError, OSError) as error:
        why = line_of(error)
        if why is None:
            raise
        sys.stderr.write(f"{why}\n")
        sys.exit(1)
    if code := check_net(options.file):
        sys.exit(code)


def check_net(path: Path = PARAMS_FILE) -> int:
    """Check the net of a good params file, in a process of its own, as torch loads slowly; the exit code."""
    return subprocess.run([sys.executable, "-m", "pipeline.net_check", path], check=False).returncode


def _refuse(value: object) -> NoReturn:
    """YAML has dates, sets and bytes, too."""
    raise TypeError(f"expected text, numbers, true, false and null alone (got {value})")


def _read_yaml(path: Path) -> Any:
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text") from None
    except MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"{path}: not valid YAML{where}: {' '.join(problem.split())}") from None
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    # What becomes of a 45th of the 13th month, a tag on nothing, or brackets without end.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"{path}: not valid YAML: {reason}") from None


def _once(lines: list[str]) -> list[str]:
    """Each mistake once: schedules that merge one anchor repeat its mistakes, and a misspelt key is missing, too."""
    said, kept = set[tuple[str, str]](), []
    unknown = [line.partition(":")[0].rpartition(".") for line in lines if ": unknown key (" in line]
    for line in lines:
        key, _, text = line.partition(":")
        section, _, name = key.rpartition(".")
        misspelt = [found for of, _, found in unknown if of == section]
        if text == " required key is missing" and get_close_matches(name, misspelt):
            continue
        if section.endswith(_SCHEDULES):
            mistake = (name, text.partition("; allowed: ")[0])  # retraining allows more
            if mistake in said:
                continue
            said.add(mistake)
        kept.append(line)
    return kept


def _describe(detail: ErrorDetails, data: Any) -> list[str]:
    key = ".".join(_key_path(detail["loc"], data, missing=detail["type"] == "missing"))
    if detail["type"] == "value_error":  # our own validators name their key where it is not the location
        message = detail["msg"].removeprefix("Value error, ")
        return [f"{key}.{line}" if key else line for line in message.split("\n")]
    if detail["type"] == "missing":
        return [f"{key}: required key is missing"]
    if detail["type"] == "union_tag_not_found":
        tag = _tag_name(detail)
        return [
            f"{key}.{tag}: required key is missing; expected one of {_known_tags(detail['loc'], tag, data)}"
        ]
    if detail["type"] == "union_tag_invalid":
        tag = _tag_name(detail)
        found = json.dumps(detail["input"][tag], ensure_ascii=False)
        return [f"{key}.{tag}: expected one of {detail['ctx']['expected_tags']} (got {found})"]
    got = json.dumps(detail["input"], default=str, ensure_ascii=False)
    if len(got) > 80:
        got = f"{got[:77]}..."
    if detail["type"] == "extra_forbidden":
        return [f"{key}: unknown key (got {got}); allowed: {_allowed_keys(detail['loc'], data)}"]
    message = detail["msg"].replace("Input should be", "expected").replace("Input should have", "expected")
    message = re.sub("Dictionary should have (.+) after validation, not .+", r"expected \1", message)
    return [f"{key or 'the file'}: {message[0].lower()}{message[1:]} (got {got})"]


def _key_path(loc: tuple[int | str, ...], data: Any, *, missing: bool = False) -> list[str]:
    """The location as keys of the file; a union's tag, which pydantic puts among them, is none.

    With `missing`, the last part is a key that the file lacks.
    """
    keys: list[str] = []
    node = data
    for idx, part in enumerate(loc):
        if part == "[key]":
            continue
        is_missing = missing and idx == len(loc) - 1
        found = (isinstance(node, dict) and part in node) or (
            isinstance(node, list) and isinstance(part, int)
        )
        if found or is_missing or node is None:
            keys.append(str(part))
            node = node[part] if found else None
    return keys


def _allowed_keys(loc: tuple[int | str, ...], data: Any) -> str:
    """Keys of the section that holds an unknown key, asked of pydantic: those missing from `{}`."""
    probe = copy.deepcopy(data)
    node = _node_at(_key_path(loc, data)[:-1], probe)
    section = dict(node)
    node.clear()
    tags = []
    for detail in _errors(probe):
        # The location inside a union's section begins with the section's and its tag.
        if detail["type"] == "union_tag_not_found" and detail["loc"] == loc[:-2]:
            tags.append(_tag_name(detail))
            node[tags[-1]] = section[tags[-1]]
    missing = [d["loc"][-1] for d in _errors(probe) if d["type"] == "missing" and d["loc"][:-1] == loc[:-1]]
    return ", ".join(str(key) for key in (*tags, *missing))


def _known_tags(loc: tuple[int | str, ...], tag: str, data: Any) -> str:
    """The values of the key that tells the kinds of a section apart, asked of pydantic with a wrong one."""
    probe = copy.deepcopy(data)
    _node_at(_key_path(loc, data), probe)[tag] = ""
    return next(str(detail["ctx"]["expected_tags"]) for detail in _errors(probe) if detail["loc"] == loc)


def _tag_name(detail: ErrorDetails) -> str:
    return str(detail["ctx"]["discriminator"]).strip("'")


def _node_at(keys: list[str], data: Any) -> Any:
    node = data
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node


def _errors(data: Any) -> list[ErrorDetails]:
    try:
        Params.model_validate_json(json.dumps(data))
    except ValidationError as error:
        return error.errors(include_url=False)
    return []
