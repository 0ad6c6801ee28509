"""The command `bnas`: lists, picks, runs and inspects the packed networks of a run. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bnas.firmware import command as export_c
from bnas.report.formats import aligned, kib, percent
from bnas.storage.files import atomic_write, placed
from bnas.storage.terminal import Parser, complain, printable, run_command, target_of

if TYPE_CHECKING:
    from bnas.packed import PackedNetwork
    from bnas.records.networks import RetrainedNetwork

EXPORT = Path("data/export")
SUFFIX = ".bnn"
IMAGES_AT_ONCE = 256


class UsageError(ValueError):
    """A command that cannot be carried out; the message is one line."""


@dataclass(frozen=True)
class Model:
    """A packed file and how long it takes for one image on this machine, in milliseconds."""

    path: Path
    network: PackedNetwork
    ms: float

    @property
    def trained(self) -> RetrainedNetwork:
        """The record of the network in the file."""
        return self.network.card.network

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return self.network.content.file_bytes

    @property
    def row(self) -> dict[str, str]:
        """Its line in the list."""
        return {
            "network": self.trained.name,
            "KiB": kib(self.file_bytes),
            "RAM KiB": kib(self.network.card.ram_bytes),
            "test %": percent(self.trained.test_error),
            "MOPs": f"{self.trained.ops / 1e6:.3f}",
            "ms": f"{self.ms:.3f}",
            "file": str(self.path),
        }


def models(folder: Path) -> list[Model]:
    """The packed networks in a folder, smallest first, each timed on one image."""
    from bnas.data.picture_files import is_junk
    from bnas.packed import load
    from bnas.packed.timing import timed

    entries = sorted(folder.iterdir()) if folder.exists() else None
    paths = [path for path in entries or () if path.suffix == SUFFIX and path.is_file() and not is_junk(path.name)]
    if not paths:
        found = "no such folder" if entries is None else "none"
        raise UsageError(f"{folder}: expected packed networks (*{SUFFIX}), found {found}; `dvc repro` makes them")
    timed_models = []
    for path in paths:
        network = load(path)
        image = pixels(network, 1)
        timed_models.append(Model(path, network, 1000 * timed(lambda: network(image), seconds=0.1).median))  # noqa: B023
    return sorted(timed_models, key=lambda model: model.file_bytes)


def pixels(network: PackedNetwork, count: int) -> NDArray[np.uint8]:
    """Random pixels of the size that a network takes, uint8 `[count, C, H, W]`."""
    return np.random.default_rng(0).integers(0, 256, (count, *network.card.image.shape), np.uint8)


def list_models(arguments: argparse.Namespace) -> int:
    """`bnas list`."""
    all_models = models(arguments.folder)
    if arguments.json:
        print(json.dumps([_plain(model) for model in all_models], indent=1))
    else:
        print("\n".join(aligned([model.row for model in all_models], left=("network", "file"))))
    return 0


def _plain(model: Model) -> dict[str, object]:
    network = model.trained
    return {
        "name": network.name,
        "role": network.role,
        "genotype": network.key,
        "file": str(model.path),
        "file_bytes": model.file_bytes,
        "ram_bytes": model.network.card.ram_bytes,
        "payload_bytes": model.network.content.payload_bytes,
        "test_error": network.test_error,
        "ops": network.ops,
        "latency_ms": round(model.ms, 4),
    }


def pick(arguments: argparse.Namespace) -> int:
    """`bnas pick`: lowest error under bounds on size, memory and time, or the smallest under a bound on error."""
    bounds = {
        "--max-kib": arguments.max_kib,
        "--max-ram-kib": arguments.max_ram_kib,
        "--max-error": arguments.max_error,
        "--max-ms": arguments.max_ms,
    }
    if all(bound is None for bound in bounds.values()):
        raise UsageError(f"expected at least one of {', '.join(bounds)}")
    if arguments.max_error is not None and not 0 <= arguments.max_error <= 1:
        raise UsageError(f"--max-error: expected a share from 0 to 1, found {arguments.max_error}")
    all_models = models(arguments.folder)
    fitting = [
        model
        for model in all_models
        if (arguments.max_kib is None or model.file_bytes <= 1024 * arguments.max_kib)
        and (arguments.max_ram_kib is None or model.network.card.ram_bytes <= 1024 * arguments.max_ram_kib)
        and (arguments.max_error is None or model.trained.test_error <= arguments.max_error)
        and (arguments.max_ms is None or model.ms <= arguments.max_ms)
    ]
    if not fitting:
        wanted = " ".join(f"{name} {bound}" for name, bound in bounds.items() if bound is not None)
        raise UsageError(f"none of {len(all_models)} networks meets {wanted}; `bnas list` shows them")
    only_error = all(bound is None for name, bound in bounds.items() if name != "--max-error")
    best = fitting[0] if only_error else min(fitting, key=lambda model: (model.trained.test_error, model.file_bytes))
    target = None if arguments.output is None else placed(arguments.output, best.path.name)
    if target is not None:
        _write(target, best.path.read_bytes(), [model.path for model in all_models], "a network to pick from")
    print("\n".join(aligned([best.row], left=("network", "file"))))
    if len(fitting) > 1 and not only_error:
        print(f"lowest test error of {len(fitting)} networks: optimistic, chosen by the test split")
    if target is not None:
        print(f"copied to {printable(str(target))}")
    return 0


def _write(target: Path, content: bytes, sources: Sequence[Path], what: str) -> None:
    """Write a file made of networks. Raises UsageError for one of their places or a missing folder."""
    if target.resolve() in [path.resolve() for path in sources]:
        raise UsageError(f"{target}: expected another place to write to, found {what}")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: expected a file in a folder, found no such folder")
    atomic_write(target, content)


def predict(arguments: argparse.Namespace) -> int:
    """`bnas predict`: class and probability of every image; 1 if an image could not be read."""
    from bnas.packed import load

    network = load(arguments.model)
    paths, refused, notes = _files(arguments.images)
    for line in [*notes, *refused]:
        complain("bnas predict", line)
    unread: list[Path] = []
    answers = _probabilities(network, paths, unread)
    if arguments.json:
        _print_list(_answer(path, shares, network.classes) for path, shares in answers)
    elif table := [
        {"image": str(path), "class": network.classes[shares.argmax()], "probability": f"{shares.max():.3f}"}
        for path, shares in answers
    ]:
        print("\n".join(aligned(table, left=("image", "class"))))
    return 1 if refused or unread else 0


def _print_list(rows: Iterable[Mapping[str, object]]) -> None:
    """A JSON list, a row at a time: of many images and classes it is larger than memory."""
    before = "["
    for row in rows:
        print(f"{before}\n{textwrap.indent(json.dumps(row, indent=1), ' ')}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def _probabilities(
    network: PackedNetwork, paths: Sequence[Path], unread: list[Path]
) -> Iterator[tuple[Path, NDArray[np.float64]]]:
    """Each image that can be read, with the probability of every class; the others are named, and go to `unread`."""
    from bnas.data.picture import ImageError, normalise, read_image

    size = network.card.image
    for start in range(0, len(paths), IMAGES_AT_ONCE):
        good, images = [], []
        for path in paths[start : start + IMAGES_AT_ONCE]:
            try:
                images.append(read_image(path, size.height, size.width, size.channels, size.resize))
                good.append(path)
            except ImageError as error:
                unread.append(path)
                complain("bnas predict", error)
        if images:
            shares = network.probabilities(normalise(np.stack(images), network.card.mean, network.card.std))
            yield from zip(good, shares, strict=True)


def _answer(path: Path, shares: NDArray[np.float64], classes: Sequence[str]) -> dict[str, object]:
    best = int(shares.argmax())
    return {
        "image": str(path),
        "class": classes[best],
        "probability": round(float(shares[best]), 6),
        "probabilities": {name: round(float(share), 6) for name, share in zip(classes, shares, strict=True)},
    }


def _files(given: Iterable[Path]) -> tuple[list[Path], list[str], list[str]]:
    """The given files and those in given folders, by name; complaints about folders; notes on files left out."""
    from bnas.data.picture_files import PictureFiles

    files: list[Path] = []
    refused: list[str] = []
    notes: list[str] = []
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        listing = PictureFiles(path, follow=True)
        inside = listing.files()
        files += sorted(path / name for name in inside)
        refused += [f"{path}: {problem}" for problem in listing.problems]
        if not inside and not listing.problems:
            refused.append(f"{path}: expected images, found an empty folder")
        notes += [f"{path}: {listing.left_out_text()}"] if listing.left_out else []
    return files, refused, notes


def benchmark(arguments: argparse.Namespace) -> int:
    """`bnas benchmark`."""
    from bnas.packed import load
    from bnas.packed.timing import timed

    network = load(arguments.model, arguments.threads)
    rows = []
    for count in arguments.batch:
        images = pixels(network, count)
        timing = timed(lambda: network(images), seconds=arguments.seconds)  # noqa: B023
        rows.append(
            {
                "batch": str(count),
                "median ms": f"{1000 * timing.median:.3f}",
                "quartiles": f"{1000 * timing.low:.3f}-{1000 * timing.high:.3f}",
                "images/s": f"{count / timing.median:,.0f}",
                "runs": str(timing.repeats),
            }
        )
    print("\n".join(aligned(rows)))
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """`bnas inspect`: what the file says, and where its bytes are."""
    from bnas.packed import load
    from bnas.packed.rounding import step_bytes

    network = load(arguments.model)
    card, content = network.card, network.content
    trained, image = card.network, card.image
    facts = {
        "name": f"{trained.name} ({trained.role})",
        "genotype": trained.key,
        "trained on": f"{card.title}, {trained.epochs} epochs",
        "input": f"{image.height} x {image.width}, {image.channels} channels, mean {card.mean}, deviation {card.std}",
        "classes": ", ".join(card.classes),
        "network": f"{card.config.channels} channels, {card.config.cells} cells, stem stride {card.config.stem_stride}",
        "test error": f"{percent(trained.test_error)} % ({trained.wrong} of {trained.test_images} images)",
        "rounding": "none" if trained.rounded is None else trained.rounded.sentence,
        "parameters": f"{trained.params:,}",
        "OPs": f"{trained.ops:,.0f}",
        "RAM": f"{card.ram_bytes:,} bytes, as C for one image at a time",
        "size": f"{trained.size_bytes:,.0f} bytes counted, {content.payload_bytes:,} stored",
        "file": f"{content.file_bytes:,} bytes, {content.header_bytes:,} of them header",
        "format": f"bnas {content.version}, {card.config.shipped}",
        "hash": content.hash,
    }
    width = max(map(len, facts))
    print("\n".join(f"{name.ljust(width)}  {printable(value)}" for name, value in facts.items()))
    rows = [
        {
            "layer": step.name,
            "kind": type(step).__name__,
            "map": "x".join(map(str, step.out)),
            "bits": f"{step.bits:,}",
            "floats": f"{step.floats:,}",
            "bytes": f"{step_bytes(step, card.config.shipped):,.1f}",
        }
        for step in network.steps
        if step.bits or step.floats
    ]
    print("\n" + "\n".join(aligned(rows, left=("layer", "kind"))))
    return 0


def export_onnx(arguments: argparse.Namespace) -> int:
    """`bnas export-onnx`."""
    from bnas.packed import load
    from bnas.packed.onnx_export import to_onnx

    model = arguments.model
    target = placed(arguments.output or model.parent, f"{model.stem}.onnx")
    _write(target, to_onnx(load(model)).SerializeToString(), [model], "the network itself")
    print(f"written to {printable(str(target))}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """`bnas show`: the networks of a finished run."""
    from bnas.records.networks import read_network_times, read_networks
    from bnas.report.network_tables import finished_networks

    folder = arguments.run_folder
    networks, times = folder / "data/retrain/networks.json", folder / "reports/times/networks.json"
    if not networks.exists():
        raise UsageError(f"no finished run found: {networks} does not exist; run `dvc repro` first")
    seconds = {row.network: row.seconds for row in read_network_times(times)} if times.exists() else {}
    print(finished_networks(read_networks(networks), seconds))
    return 0


def clean(arguments: argparse.Namespace) -> int:
    """`bnas clean`: list what interrupted and finished work keeps in the cache, or remove it."""
    from bnas.storage.cache import entries, remove

    cached = entries(arguments.cache)
    foreign = [entry for entry in cached if entry.kind == "foreign"]
    kept = [entry for entry in cached if entry.kind == "finished network" and not arguments.all]
    chosen = [entry for entry in cached if entry not in foreign + kept]
    rows = [{"kind": entry.kind, "KiB": kib(entry.size), "path": str(entry.path)} for entry in cached]
    if not arguments.remove:
        print("\n".join(aligned(rows, left=("kind", "path"))) if rows else f"{printable(str(arguments.cache))}: empty")
        return 0
    failed = remove(chosen)
    for path, why in {**{entry.path: "not written by bnas" for entry in foreign}, **failed}.items():
        complain("bnas clean", f"{path}: kept, {why}")
    freed = sum(entry.size for entry in chosen if entry.path not in failed)
    finished = f"; finished networks that stay: {len(kept)} (--all removes them)" if kept else ""
    print(f"removed {len(chosen) - len(failed)} of {len(chosen)}, {kib(freed)} KiB{finished}")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    top = Parser(
        prog="bnas",
        description="Choose, try and ship the packed binary networks of a run.",
        epilog="examples: bnas list | bnas pick --max-kib 20 -o model.bnn | bnas predict model.bnn photos/ --json",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        made.set_defaults(run=run)
        return made

    def folder(made: argparse.ArgumentParser) -> None:
        made.add_argument("--folder", type=Path, default=EXPORT, help=f"where the packed files lie (default {EXPORT})")

    def model(made: argparse.ArgumentParser) -> None:
        made.add_argument("model", type=Path, metavar="MODEL", help=f"a packed network (*{SUFFIX})")

    made = command("list", list_models, "packed networks: size, error, OPs, latency here", "bnas list")
    folder(made)
    made.add_argument("--json", action="store_true", help="print JSON")

    made = command("pick", pick, "the best network within bounds", "bnas pick --max-kib 40 -o model.bnn")
    folder(made)
    made.add_argument("--max-kib", type=float, metavar="KIB", help="largest file, in KiB; the lowest error is picked")
    made.add_argument(
        "--max-ram-kib",
        type=float,
        metavar="KIB",
        help="most working memory for one image on a microcontroller, in KiB",
    )
    made.add_argument("--max-ms", type=float, metavar="MS", help="longest time for one image here, in milliseconds")
    made.add_argument(
        "--max-error",
        type=float,
        metavar="SHARE",
        help="highest test error, 0.05 for 5 %%; alone, the smallest is picked",
    )
    made.add_argument("-o", "--output", type=target_of, metavar="PATH", help="copy the file there")

    made = command("predict", predict, "class and probability of images", "bnas predict model.bnn cat.png photos/")
    model(made)
    made.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    made.add_argument("--json", action="store_true", help="print JSON, with the probability of every class")

    made = command("benchmark", benchmark, "how fast a network predicts here", "bnas benchmark model.bnn --batch 1 64")
    model(made)
    made.add_argument(
        "--batch", type=_positive, nargs="+", default=[1, 8, 64], metavar="N", help="images a call (1 8 64)"
    )
    made.add_argument("--threads", type=_positive, metavar="N", help="threads (default: all cores)")
    made.add_argument("--seconds", type=_seconds, default=1.0, metavar="S", help="how long to measure each (default 1)")

    made = command("inspect", inspect, "what a file holds: network, errors, layers, bytes", "bnas inspect model.bnn")
    model(made)

    made = command("export-onnx", export_onnx, "the same network as ONNX", "bnas export-onnx model.bnn -o model.onnx")
    model(made)
    made.add_argument("-o", "--output", type=target_of, metavar="PATH", help="default: MODEL with the suffix .onnx")

    made = command("export-c", export_c.run, "C for microcontrollers", "bnas export-c model.bnn -o firmware")
    model(made)
    export_c.add_arguments(made)

    made = command("show", show, "the networks of the last finished run", "bnas show")
    made.add_argument("--run", dest="run_folder", type=Path, default=Path(), help=argparse.SUPPRESS)

    made = command("clean", clean, "list or remove checkpoints and finished networks", "bnas clean --remove")
    made.add_argument("--cache", type=Path, default=Path(".cache"), help="the cache (default .cache)")
    made.add_argument("--remove", action="store_true", help="remove checkpoints and leftovers")
    made.add_argument("--all", action="store_true", help="with --remove: finished networks too")

    made = command("completion", completion, "shell completion", 'eval "$(bnas completion bash)"')
    made.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return top


def completion(arguments: argparse.Namespace) -> int:
    """`bnas completion`: a script for the shell."""
    import shtab

    made = parser()
    for command in _commands(made):
        for argument in command._actions:
            if argument.type in (Path, target_of):
                # An attribute that shtab looks for.
                argument.complete = shtab.DIRECTORY if "--folder" in argument.option_strings else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(made, arguments.shell))
    return 0


def _commands(made: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 3600, found {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 2 with one line on stderr for bad input."""
    return run_command("bnas", lambda: _run(parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    def run() -> int:
        try:
            return int(arguments.run(arguments))
        except ModuleNotFoundError as error:
            extra = "onnx" if error.name == "onnx" else "pipeline"
            raise UsageError(f"expected the package {error.name}, found none; install `bnas[{extra}]`") from None

    return run_command(f"bnas {arguments.command}", run)


if __name__ == "__main__":
    sys.exit(main())
