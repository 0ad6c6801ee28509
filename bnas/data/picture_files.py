"""Which files in a folder are pictures by their place and name: one rule, for `prepare` and for `bnas predict`."""

from __future__ import annotations

import mimetypes
import os
import re
from collections import Counter
from pathlib import Path

from bnas.data.problems import FileProblem, ProblemsError
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
        "system volume information",
        # macOS, beside names that start with a dot
        "__macosx",
        "icon\r",
        "icon\uf00d",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        # NAS
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        # Linux, Picasa
        "lost+found",
        "picasa.ini",
    }
)
"""Names, in lower case, of files and folders that systems leave behind."""

JUNK_PATTERN = re.compile(r"\..*|(?i:found\.\d{3}|network recycle bin \d+|.*:zone\.identifier)|RECYCLE[RD]", re.DOTALL)
"""Other such names. Windows writes RECYCLER in capitals; `recycled` may be a class."""

LINKED = (
    "expected a folder, found a link to one, behind which no change would be noticed: link its files "
    "(cp -rs does), or the data set's folder as a whole"
)

KINDS_SHOWN = 8
"""Kinds of junk that a message names; the others are counted."""


def is_junk(name: str) -> bool:
    """Whether a system leaves files or folders of this name behind, or it is hidden."""
    return name.lower() in JUNK or JUNK_PATTERN.fullmatch(name) is not None


def _kind(name: str) -> str:
    """What counts as one kind of junk: all that macOS or Windows leave beside each file, else those of one name."""
    if name.startswith("._"):
        return "._*"
    return "*:Zone.Identifier" if name.lower().endswith(":zone.identifier") else name


class PictureFiles:
    """The files below the folder `root`, without what systems leave there; paths are relative to it, with slashes.

    A link to a folder is a problem or, with `follow`, followed if it leads to what is not listed yet. `left_out` holds
    the paths of what was not looked at for its name, `beside` those of pictures beside folders, and `problems` is what
    keeps files from being listed.
    """

    def __init__(self, root: Path, *, follow: bool = False) -> None:
        self.root, self.follow = root, follow
        self.left_out: set[str] = set()
        self.beside: set[str] = set()
        self.problems: list[FileProblem] = []

    def folders(self, inside: str = "") -> list[str]:
        """Names of the folders that lie directly in a folder, in order; raises ProblemsError as `require_listed`."""
        names = []
        for entry in self._entries(inside):
            path = _join(inside, entry.name)
            if entry.is_dir():
                names.append(entry.name)
                if entry.is_symlink():
                    self.problems.append(FileProblem(path, LINKED, False))
            elif entry.is_symlink() and not os.path.exists(entry.path):
                self.problems.append(FileProblem(path, "expected a folder, found a link that leads nowhere", False))
            elif (mimetypes.guess_type(entry.name, strict=False)[0] or "").startswith("image/"):
                self.beside.add(path)
        self.require_listed()
        return names

    def files(self, inside: str = "") -> list[str]:
        """Paths of all files below a folder in a fixed order, those behind links last."""
        found: list[str] = []
        known = set[tuple[int, int]]()
        folders, links = [inside], list[str]()
        while folders or links:
            folder = folders.pop() if folders else links.pop(0)
            here = os.stat(self.root / folder)
            if (here.st_dev, here.st_ino) in known:
                text = "expected a folder, found a link to one that is looked into already"
                self.problems.append(FileProblem(folder, text, False))
                continue
            known.add((here.st_dev, here.st_ino))
            below = []
            for entry in self._entries(folder):
                path = _join(folder, entry.name)
                if entry.is_dir() and not entry.is_symlink():
                    below.append(path)
                elif entry.is_dir() and self.follow:
                    links.append(path)
                elif entry.is_dir():
                    self.problems.append(FileProblem(path, LINKED, False))
                elif not is_utf8(entry.name):
                    self.problems.append(FileProblem(path, "expected a name in UTF-8"))
                else:
                    found.append(path)
            folders += reversed(below)
        return found

    def require_listed(self) -> None:
        """Raises ProblemsError where something kept folders from being listed."""
        if unlisted := [problem for problem in self.problems if not problem.skippable]:
            raise ProblemsError(self.root, unlisted)

    def left_out_text(self) -> str:
        """One line that says what was left out ("" for nothing)."""
        names = Counter(path.rpartition("/")[2] for path in self.left_out)
        several = Counter(map(_kind, names))
        kinds = Counter[str]()
        for name, count in sorted(names.items()):
            kinds[_kind(name) if several[_kind(name)] > 1 else name] += count
        text = ", ".join(f"{count} {printable(kind)}" for kind, count in kinds.most_common(KINDS_SHOWN))
        others = sum(count for _, count in kinds.most_common()[KINDS_SHOWN:])
        more = f", {others} others" if others else ""
        return f"left out what systems leave in folders: {text}{more}" if text else ""

    def _entries(self, inside: str) -> list[os.DirEntry[str]]:
        try:
            entries = sorted(os.scandir(self.root / inside), key=lambda entry: entry.name)
        except OSError as error:
            text = f"expected a folder that can be read, found {error.strerror}"
            self.problems.append(FileProblem(inside, text, False))
            return []
        self.left_out.update(_join(inside, entry.name) for entry in entries if is_junk(entry.name))
        return [entry for entry in entries if not is_junk(entry.name)]


def _join(inside: str, name: str) -> str:
    return f"{inside}/{name}" if inside else name


def is_utf8(name: str) -> bool:
    """Whether a name that the file system gave is text in UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
