"""Which files in a folder are pictures by their place and name: one rule, for `prepare` and for `bnas predict`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bnas.data.problems import FileProblem
from bnas.storage.terminal import printable

JUNK = frozenset(
    {
        # Windows
        "thumbs.db",
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        # macOS, beside names that start with a dot
        "__macosx",
        "icon\r",
        "network trash folder",
        "temporary items",
        # NAS
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        # Linux, Picasa
        "lost+found",
        "picasa.ini",
    }
)
"""Names, in lower case, of files and folders that systems leave behind."""


KINDS_SHOWN = 8
"""Kinds of junk that a message names; the others are counted."""


def is_junk(name: str) -> bool:
    """Whether a system leaves files or folders of this name behind: those in `JUNK`, and hidden ones."""
    return name.startswith(".") or name.lower() in JUNK or name.lower().endswith(":zone.identifier")


def _kind(name: str) -> str:
    """What counts as one kind of junk: all that macOS or Windows leave beside each file, else those of one name."""
    if name.startswith("._"):
        return "._*"
    return "*:Zone.Identifier" if name.lower().endswith(":zone.identifier") else name


class PictureFiles:
    """The files below the folder `root`, without what systems leave there; paths are relative to it, with slashes.

    `left_out` counts what was not looked at by its name, `links` are folders that lie elsewhere, and `problems` is what
    keeps files from being listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out = Counter[str]()
        self.links: list[str] = []
        self.problems: list[FileProblem] = []

    def folders(self, inside: str = "") -> list[str]:
        """Names of the folders that lie directly in a folder, in order."""
        entries = self._entries(inside)
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path):
                text = "expected a folder, found a link that leads nowhere"
                self.problems.append(FileProblem(_join(inside, entry.name), text, False))
        return [entry.name for entry in entries if self._is_folder(entry, _join(inside, entry.name))]

    def files(self, inside: str = "") -> list[str]:
        """Paths of all files below a folder in a fixed order; links to folders are followed."""
        return list(self._walk(inside, (os.stat(self.root / inside),)))

    def left_out_text(self) -> str:
        """One line that says what was left out ("" for nothing)."""
        several = Counter(map(_kind, self.left_out))
        kinds = Counter[str]()
        for name, count in sorted(self.left_out.items()):
            kinds[_kind(name) if several[_kind(name)] > 1 else name] += count
        names = ", ".join(f"{count} {printable(kind)}" for kind, count in kinds.most_common(KINDS_SHOWN))
        others = sum(count for _, count in kinds.most_common()[KINDS_SHOWN:])
        more = f", {others} others" if others else ""
        return f"left out what systems leave in folders: {names}{more}" if names else ""

    def _walk(self, inside: str, above: tuple[os.stat_result, ...]) -> Iterator[str]:
        entries = self._entries(inside)
        folders = []
        for entry in entries:
            path = _join(inside, entry.name)
            if self._is_folder(entry, path):
                folders.append((path, entry))
            elif not is_utf8(entry.name):
                self.problems.append(FileProblem(path, "expected a name in UTF-8"))
            else:
                yield path
        for path, entry in folders:
            here = entry.stat()
            if any(os.path.samestat(here, other) for other in above):
                self.problems.append(FileProblem(path, "expected a folder, found a link to one that holds it", False))
            else:
                yield from self._walk(path, (*above, here))

    def _entries(self, inside: str) -> list[os.DirEntry[str]]:
        try:
            entries = sorted(os.scandir(self.root / inside), key=lambda entry: entry.name)
        except OSError as error:
            text = f"expected a folder that can be read, found {error.strerror}"
            self.problems.append(FileProblem(inside, text, False))
            return []
        self.left_out.update(entry.name for entry in entries if is_junk(entry.name))
        return [entry for entry in entries if not is_junk(entry.name)]

    def _is_folder(self, entry: os.DirEntry[str], path: str) -> bool:
        if entry.is_symlink() and entry.is_dir():
            self.links.append(path)
        return entry.is_dir()


def _join(inside: str, name: str) -> str:
    return f"{inside}/{name}" if inside else name


def is_utf8(name: str) -> bool:
    """Whether a name that the file system gave is text in UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
