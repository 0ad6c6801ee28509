"""Packed 1-bit models: a file of bits, and predictions from it without torch.

`load(path)` reads a file, and the network it returns takes images `[N, C, H, W]` to logits; `save(network, path, card)`
writes one and is the only part that needs torch. Importing the package imports none of its modules: the first use of a
name imports the module that defines it. `__init__.pyi` holds the names' types.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "ModelCard": "card",
    "PackedContent": "content",
    "PackedError": "file",
    "read": "file",
    "packed": "fold",
    "save": "fold",
    "PackedNetwork": "network",
    "load": "network",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """The object of that name, from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
