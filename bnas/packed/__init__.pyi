from bnas.packed.card import ModelCard
from bnas.packed.content import PackedContent
from bnas.packed.file import PackedError, read
from bnas.packed.fold import packed, save
from bnas.packed.network import PackedNetwork, load

__all__ = ["ModelCard", "PackedContent", "PackedError", "PackedNetwork", "load", "packed", "read", "save"]
