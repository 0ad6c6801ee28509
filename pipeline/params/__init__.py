"""The only reader of params.yaml: its values, checked; one clear line for a bad file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bnas.storage.complaints import Complaint, complaints, mismatch
from pipeline.params import rules
from pipeline.params.sections import Params as Params
from pipeline.params.sections import Section
from pipeline.params.sections import UndeclaredSectionError as UndeclaredSectionError
from pipeline.params.yaml12 import ParamsError as ParamsError
from pipeline.params.yaml12 import params_error, read_yaml

M = TypeVar("M", bound=Section)
P = TypeVar("P", bound=Params)


class ParamsWarning(UserWarning):
    """Parameters that are valid but cannot do what they say."""


def load(path: str | os.PathLike[str]) -> Params:
    """The validated parameters; within a DVC stage only the sections that its entry in dvc.yaml declares.

    DVC names the running stage in the environment variable DVC_STAGE; its `params` are looked up in the
    dvc.yaml beside `path`. The whole file is validated in any case, and `runtime` can always be read.

    Raises ParamsError, one line, for anything that is wrong with either file. Warns (ParamsWarning) of more
    retrained networks than the front can have.
    """
    file = Path(path)
    params = validated(file, Params, rules.of_search)
    _warn_of_impossible_count(file, params)
    return readable(params, file)


def validated(file: Path, model: type[M], broken_rules: Callable[[M], Iterable[Complaint]]) -> M:
    """The whole file as a `model`. Raises ParamsError, one line, for the first of what is wrong with it."""
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise params_error(file, mismatch((), f"the sections {', '.join(model.model_fields)}", content))
    try:
        params = model.model_validate(content)
    except ValidationError as error:
        raise params_error(file, *complaints(error, model)) from None
    if broken := list(broken_rules(params)):
        raise params_error(file, *broken)
    return params


def readable(params: P, file: Path, within: str = "") -> P:
    """Within a DVC stage only the sections that it declares, else all of them. See `declared` for `within`."""
    address = os.environ.get("DVC_STAGE")
    if not address:
        return params
    stage = address.rpartition(":")[2]
    names = {*declared(file, stage, params.sections, within)[0], "runtime"}
    restricted = type(params).model_construct(**{n: getattr(params, n) for n in params.sections if n in names})
    restricted._stage = stage
    return restricted


def declared(file: Path, stage: str, sections: Collection[str] = (), within: str = "") -> tuple[set[str], list[Path]]:
    """The sections of `file`, and the files and folders, that a stage reads by the dvc.yaml beside `file`.

    `sections` are all that the file has, below the key `within` if there is one; none stand for those of `Params`.
    """
    known = sections or tuple(Params.model_fields)
    dvc_file, loc = file.with_name("dvc.yaml"), ("stages", stage)
    content = read_yaml(dvc_file)
    try:
        items = content["stages"][stage].get("params") or ()
        paths = [Path(path) for path in content["stages"][stage].get("deps") or ()]
    except (AttributeError, KeyError, TypeError):
        missing = Complaint(loc, "expected the stage that DVC_STAGE names, found nothing")
        raise params_error(dvc_file, missing) from None
    keys: list[object] = []
    for item in items if isinstance(items, tuple) else (items,):
        if not isinstance(item, dict):
            keys.append(item)
            continue
        for other, listed in item.items():
            if Path(other).name == file.name:  # no list under the name stands for the whole file
                keys += listed if isinstance(listed, tuple) else known
    above = f"{within}." if within else ""
    names = {str(key).removeprefix(above).partition(".")[0]: key for key in keys}
    for name, key in names.items():
        if name not in known or not str(key).startswith(above):
            raise params_error(dvc_file, mismatch((*loc, "params"), f"sections of {file.name}", key))
    return set(names), paths


def _warn_of_impossible_count(file: Path, params: Params) -> None:
    search, count = params.search, params.retrain.count
    evaluated = search.population * (search.generations + 1) + search.immigrants
    bound = min(evaluated, rules.architectures(params.space))
    if count > bound:
        expected = f"an integer of at most {bound}, the most architectures the front can have"
        complaint = mismatch(("retrain", "count"), expected, count)
        warnings.warn(str(params_error(file, complaint)), ParamsWarning, stacklevel=3)
