"""A module's weights on disk: safetensors with a hash of their content, so that no changed byte passes for a weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bnas.storage.files import atomic_write


class WeightsError(ValueError):
    """A file that does not hold the weights it should; the message names it."""


def save_weights(module: nn.Module, path: Path) -> None:
    """Write parameters and buffers, plain row-major; equal weights give equal files."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    atomic_write(path, save(state, {"sha256": _content_hash(state)}))


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the file's weights into a module. Raises WeightsError for any other file, before the module is touched."""
    state = read_weights(path)
    expected, given = _shapes(module.state_dict()), _shapes(state)
    if expected != given:
        name = min(n for n in expected.keys() | given.keys() if expected.get(n) != given.get(n))
        wanted, present = expected.get(name, "no such tensor"), given.get(name, "none")
        raise WeightsError(f"{path}: {name[:80]}: expected {wanted}, found {present}")
    module.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name. Raises WeightsError for a file that is not whole or was not written here."""
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise WeightsError(f"{path}: expected weights as safetensors, found a broken file ({error})") from None
    except OSError as error:
        raise WeightsError(f"{path}: expected readable weights, found {error.strerror or error}") from None
    if metadata.get("sha256") != _content_hash(state):
        raise WeightsError(f"{path}: expected weights as they were written, found other bytes than their hash says")
    return state


def _content_hash(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name}\n{value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{value.dtype} {list(value.shape)}".removeprefix("torch.") for name, value in state.items()}
