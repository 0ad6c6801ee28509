"""Which files a module consists of, and their hash."""

import sys

import pytest

from bnas.storage.source_code import closure, imported, source_hash


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A package: `house.top` imports `house.attic.low` within a function, which imports `house.deep`."""
    files = {
        "__init__.py": "",
        "top.py": "import os\ndef f():\n    from house.attic.low import x\n",
        "attic/__init__.py": "",
        "attic/low.py": "import house.deep\n",
        "deep.py": "y = 1\n",
        "aside.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    source_hash.cache_clear()
    imported.cache_clear()
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "house"]:
        del sys.modules[name]


def test_the_closure_holds_all_that_is_imported_directly_or_not_and_the_packages(root):
    found = {path.relative_to(root / "house").as_posix() for path in closure(root / "house/top.py", root)}
    assert found == {"top.py", "attic/low.py", "deep.py", "__init__.py", "attic/__init__.py"}


@pytest.mark.parametrize(("changed", "differs"), [("deep.py", True), ("attic/__init__.py", True), ("aside.py", False)])
def test_the_hash_changes_with_whatever_is_imported_and_with_nothing_else(root, changed, differs):
    before = source_hash("house.top")
    (root / "house" / changed).write_text("# another line\n")
    source_hash.cache_clear()
    assert (source_hash("house.top") != before) == differs


def test_a_relative_import_is_refused_by_file_and_line(root):
    (root / "house/aside.py").write_text("\nfrom . import deep\n")
    with pytest.raises(ValueError, match=r"aside\.py: .* line 2"):
        imported(root / "house/aside.py", root)


def test_a_module_without_source_is_refused_by_name():
    with pytest.raises(ValueError, match="'nowhere_at_all'"):
        source_hash("nowhere_at_all")
