"""`python -m benchmarks.gpu`: a preset on a borrowed GPU machine that has torch, no network, and little time.

    pack FOLDER --preset mnist --set data.root=/data/mnist    here: wheels, images and params, to FOLDER/there
    run FOLDER --set numerics.device=cuda --minutes 9         there: the stages, for so long; results to FOLDER/back
    check FOLDER                                              there: the tests that need CUDA, and the throughput
    setup FOLDER                                              there: what `run` and `check` begin with
    unpack FOLDER                                             here: FOLDER/back to runs/, metrics/ and reports/

The checkout and FOLDER/there are carried there, in any number of goes. `run` works in FOLDER/work, without DVC, and
goes on from FOLDER/back where that is carried along. Both hold a packed tar archive cut into parts; images lie in it as
lossless WebP. At the top nothing but the standard library is imported, as the wheels are not yet installed there.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PART_BYTES = 15 * 2**20
PYTHON = "3.12"
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
# What the pipeline imports, or imports in turn, and a machine set up for torch is likely to lack or to have older.
WHEELS = (
    *("annotated-types", "eagerpy", "foolbox", "gitdb", "gitpython", "lightning-fabric", "pydantic"),
    *("pydantic-core", "ruamel-yaml", "ruamel-yaml-clib", "smmap", "torch-pruning", "typing-extensions"),
    "typing-inspection",
    # The report's.
    *("altair", "attrs", "jsonschema", "jsonschema-specifications", "markdown-it-py", "mdurl", "narwhals"),
    *("referencing", "rpds-py", "vl-convert-python"),
)
# Stages one after another in one process, which imports torch and starts CUDA once.
RUN_STAGES = (
    "import sys; from pipeline.jobs.stage import run_stage; "
    "[run_stage(f'stages.{stage}', []) for stage in sys.argv[1:]]"
)
_ROOT = Path(__file__).resolve().parents[1]
_SECONDS_TO_STOP = 30
_WEBP_SIDE_PX = 16_383  # at most


def pack(folder: Path, preset: str, changes: Sequence[str] = (), *, wheels: bool = True) -> None:
    """Write everything that the other machine needs to FOLDER/there.

    Raises:
        InputError: if the images cannot be read.
    """
    from pipeline.jobs.contents import hashes_of, write_sums
    from pipeline.jobs.job import Workplace
    from pipeline.params.file import read_params
    from stages.prepare import work as prepare

    work, prepared = folder / "work", folder / "prepared"
    for old in (work, prepared, folder / "there"):
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir(parents=True)
    prepared.mkdir()
    shutil.copy(_ROOT / "presets" / f"{preset}.yaml", work / "params.yaml")
    set_params(work / "params.yaml", changes)
    print(prepare(Workplace(prepared, prepared), settings=read_params(work / "params.yaml").data))
    write_sums(prepared, hashes_of(prepared))  # as the stage does, which is not run here
    encode_images(prepared, work / "images")
    if wheels:
        download_wheels(work / "wheels")
    write_parts(
        [work / "params.yaml", *_files(work / "images"), *_files(work / "wheels")], work, folder / "there"
    )


def download_wheels(folder: Path) -> None:
    """The wheels, in the versions that requirements.lock pins."""
    locked = (_ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = dict(re.findall(r"(?m)^([\w.-]+)==([\w.]+)", locked))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--dest", os.fspath(folder)]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([*command, *(f"{name}=={pins[name]}" for name in WHEELS)], check=True)


def set_up(folder: Path) -> Path:
    """Make FOLDER/work a project that stages run in, with what FOLDER/back has; the folder of the installed wheels.

    A second time only the code is renewed.
    """
    work, site = folder / "work", (folder / "work/site").absolute()
    ready = work / "ready"
    if not ready.exists():
        extract(folder / "back", work)
        if not extract(folder / "there", work):
            sys.exit(f"{folder / 'there'}: expected all parts that `pack` wrote")
        if wheels := _files(work / "wheels"):
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
            command += ["--no-compile", "--target", os.fspath(site), *map(os.fspath, wheels)]
            subprocess.run(command, check=True)
    if site.exists() and os.fspath(site) not in sys.path:
        sys.path.insert(0, os.fspath(site))
    if not ready.exists():
        decode_images(work / "images", work / "runs" / _read_yaml(work / "params.yaml")["name"] / "prepare")
        ready.touch()
    for room in ("pipeline", "stages"):
        shutil.rmtree(work / room, ignore_errors=True)
        shutil.copytree(_ROOT / room, work / room, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def run(
    folder: Path,
    changes: Sequence[str] = (),
    *,
    minutes: float,
    leave: Collection[str] = (),
    out: Path | None = None,
) -> bool:
    """Run the stages for so long at most, then write what there is to FOLDER/back; whether all have ended well.

    Args:
        folder: that `pack` wrote and that was carried here.
        changes: of the params, `key=value` each.
        minutes: from now until the stages are interrupted; what they have then done is packed afterwards.
        leave: stages whose files do not go back, and are made again when they are needed.
        out: gets a copy of the first four parts.
    """
    until = time.monotonic() + 60 * minutes
    site, work = set_up(folder), folder / "work"
    set_params(work / "params.yaml", changes)
    stages = re.findall(r"(?m)^    cmd: python -m stages\.(\w+)$", (_ROOT / "dvc.yaml").read_text("utf-8"))
    environment = os.environ | {"PYTHONPATH": os.fspath(site), "GPP_JOBS": ".jobs"}
    command = [sys.executable, "-c", RUN_STAGES, *(stage for stage in stages if stage != "prepare")]
    with subprocess.Popen(command, cwd=work, env=environment) as process:
        try:
            code = process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    shutil.rmtree(folder / "back", ignore_errors=True)
    parts = write_parts(_results(work, leave), work, folder / "back")
    for part in parts[:4] if out else ():
        shutil.copy(part, os.fspath(out))
    print("all stages have run" if code == 0 else f"stopped (exit code {code}): the next `run` goes on")
    return code == 0


def check(folder: Path, out: Path) -> bool:
    """Run the tests that need CUDA and measure the throughput, into `out`; whether the tests have passed."""
    environment = os.environ | {"PYTHONPATH": os.fspath(set_up(folder))}
    tests = [sys.executable, "-m", "pytest", "-o", "addopts=", "-W", "default", "-rA", "--durations=0"]
    ended = subprocess.run(
        [*tests, "tests/test_cuda.py"],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (out / "tests.txt").write_text(ended.stdout + ended.stderr, encoding="utf-8")
    print(ended.stdout[-6000:], flush=True)
    rates = [sys.executable, "-m", "benchmarks.throughput", "--images", "25600", "--json"]
    for name, flags in {"throughput": (), "throughput_nondeterministic": ("--nondeterministic",)}.items():
        file = os.fspath((out / f"{name}.json").absolute())
        subprocess.run([*rates, file, *flags], cwd=_ROOT, env=environment, check=True)
    return ended.returncode == 0


def unpack(folder: Path, into: Path = Path()) -> None:
    """Put FOLDER/back where this checkout has runs, metrics and reports, in place of what is there by that name.

    The params come to FOLDER/back/params.yaml; with them as params.yaml, `python -m stages.report` writes the report.
    """
    new = folder / "unpacked"
    shutil.rmtree(new, ignore_errors=True)
    if not extract(folder / "back", new, but=".jobs/"):
        print(f"{folder / 'back'}: the last parts are missing; the largest files are not there")
    shutil.move(new / "params.yaml", folder / "back/params.yaml")
    for found in sorted(new.glob("*/*")):
        target = into / found.relative_to(new)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        shutil.move(found, target)
        print(target)
    shutil.rmtree(new)


def set_params(file: Path, changes: Sequence[str]) -> None:
    """Change values of a params file by `key=value`: dotted keys, YAML values. Ends the process for wrong ones."""
    from ruamel.yaml import YAML

    from pipeline.errors import InputError
    from pipeline.params.file import check_params

    data = json.loads(json.dumps(_read_yaml(file)))  # sections of one anchor are apart then
    for change in changes:
        key, _, value = change.partition("=")
        *sections, last = key.split(".")
        node: Any = data
        for section in sections:
            node = node[section]
        node[last] = YAML(typ="safe").load(value)
    try:
        check_params(data, file)
    except InputError as error:
        sys.exit(str(error))
    file.write_text(json.dumps(data, indent=1), encoding="utf-8")  # which is YAML, too


def encode_images(prepared: Path, folder: Path) -> None:
    """A prepared set with its images as lossless WebP, many below each other, and everything else as it is."""
    from PIL import Image
    from safetensors.numpy import load_file, save_file

    arrays = load_file(prepared / "images.safetensors")
    if "images" not in arrays:
        sys.exit("data.store: expected pixels, as an index's files are not packed (got index)")
    images = arrays.pop("images")
    folder.mkdir(parents=True)
    save_file(arrays, folder / "rest.safetensors", {"shape": json.dumps(images.shape)})
    for file in _files(prepared):
        if file.name != "images.safetensors":
            shutil.copy(file, folder)
    channels, width = images.shape[1], images.shape[3]
    pixels = images.transpose(0, 2, 3, 1) if channels == 3 else images.reshape(len(images), -1, width)
    n = _WEBP_SIDE_PX // pixels.shape[1]
    for start in range(0, len(images), n):
        column = pixels[start : start + n].reshape(-1, *pixels.shape[2:])
        Image.fromarray(column).save(folder / f"{start:09d}.webp", lossless=True)


def decode_images(folder: Path, prepared: Path) -> None:
    """What `encode_images` read, to the bit; every stage checks the set's checksum."""
    import numpy as np
    from PIL import Image
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(folder / "rest.safetensors", "numpy") as file:
        n, channels, height, width = json.loads(file.metadata()["shape"])
    mode = "RGB" if channels == 3 else "L"
    columns = [np.asarray(Image.open(path).convert(mode)) for path in sorted(folder.glob("*.webp"))]
    images = np.concatenate(columns)
    if channels == 3:
        images = images.reshape(n, height, width, 3).transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(images.reshape(n, channels, height, width))
    prepared.mkdir(parents=True, exist_ok=True)
    save_file(load_file(folder / "rest.safetensors") | {"images": images}, prepared / "images.safetensors")
    for found in _files(folder):
        if found.suffix not in (".webp", ".safetensors"):
            shutil.copy(found, prepared)


def write_parts(files: Iterable[Path], root: Path, folder: Path) -> list[Path]:
    """A packed tar archive of files below `root`, in their order, cut into parts; another name of one costs nothing."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in files:
            archive.add(file, file.relative_to(root))
    packed = gzip.compress(content.getvalue(), 1)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(packed), PART_BYTES):
        parts.append(folder / f"part-{len(parts):03d}")
        parts[-1].write_bytes(packed[start : start + PART_BYTES])
    print(f"{folder}: {len(parts)} parts, {len(packed) / 2**20:.1f} MiB", flush=True)
    return parts


def extract(folder: Path, into: Path, *, but: str = " ") -> bool:
    """Extract what `write_parts` wrote, but names that begin so; whether all of it was there.

    Where the last parts are missing, files up to them are extracted.
    """
    packed = b"".join(part.read_bytes() for part in sorted(folder.glob("part-*")))
    if not packed:
        return False
    unpacker = zlib.decompressobj(wbits=31)  # which takes the beginning of a gzip file, too
    with tarfile.open(fileobj=io.BytesIO(unpacker.decompress(packed))) as archive:
        try:
            for member in archive:
                if not member.name.startswith(but):
                    archive.extract(member, into, filter="data")
        except tarfile.ReadError:
            (into / member.name).unlink(missing_ok=True)
    return unpacker.eof


def _results(work: Path, leave: Collection[str]) -> Iterator[Path]:
    """What goes back: reports and tables first, then models, then what the next run alone needs."""
    below = [file for room in ("metrics", "reports", "runs") for file in _files(work / room)]
    yield work / "params.yaml"
    for file in sorted(below, key=lambda path: path.stat().st_size):
        stage = file.relative_to(work).parts[2]
        if stage not in leave and (stage, file.name) != ("prepare", "images.safetensors"):
            yield file
    for about in sorted((work / ".jobs/done").glob("*/about.json")):
        if json.loads(about.read_text(encoding="utf-8"))["stage"] not in leave:
            yield from _files(about.parent)
    yield from _files(work / ".jobs/work")
    yield work / ".jobs/log.jsonl"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _read_yaml(file: Path) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(file.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 where a stage or a test has failed or is not over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["pack", "run", "check", "setup", "unpack"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change params, dotted keys"
    )
    parser.add_argument("--no-wheels", action="store_true", help="where the other machine has all packages")
    parser.add_argument("--minutes", type=float, default=9.0, help="until `run` stops its stages")
    parser.add_argument("--leave", nargs="+", default=[], help="stages whose files do not go back")
    parser.add_argument("--out", type=Path, help="where what goes back comes to lie, too: four parts at most")
    options = parser.parse_args(arguments)
    if options.verb == "pack":
        pack(options.folder, options.preset, options.set, wheels=not options.no_wheels)
    elif options.verb == "setup":
        print(set_up(options.folder))
    elif options.verb == "unpack":
        unpack(options.folder)
    elif options.verb == "check":
        sys.exit(not check(options.folder, options.out or options.folder))
    else:
        changes, minutes, leave = options.set, options.minutes, options.leave
        sys.exit(not run(options.folder, changes, minutes=minutes, leave=leave, out=options.out))


if __name__ == "__main__":
    main()
