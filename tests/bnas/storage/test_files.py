import pytest

from bnas.storage import files
from bnas.storage.files import atomic_write, read_json, read_text


def test_text_and_json_come_back(tmp_path):
    atomic_write(tmp_path / "below" / "file", '{"ä": [1, 0.1, null]}')
    assert read_text(tmp_path / "below" / "file") == '{"ä": [1, 0.1, null]}'
    assert read_json(tmp_path / "below" / "file") == {"ä": [1, 0.1, None]}


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    for name in ("a" * 255, "猫" * 85):
        atomic_write(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    with pytest.raises(OSError, match=f"/{'a' * 256}: cannot be written: File name too long"):
        atomic_write(tmp_path / ("a" * 256), "text")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1", b"[" * 200_000, b"9" * 10_000, b"{'a': 1}"])
def test_what_is_no_json_is_refused_in_one_line_that_names_the_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file: expected .*, found .*") as caught:
        read_json(tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_no_absurdly_long_text_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "TEXT_LIMIT", 10)
    (tmp_path / "file").write_text("eleven long")
    with pytest.raises(ValueError, match="file: expected at most 10 bytes of text, found 11"):
        read_text(tmp_path / "file")
