"""What happens to the tests of the page where no browser is installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests import browser, conftest


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No program is found."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


@pytest.mark.parametrize("value", [None, "", "false"])
def test_without_a_browser_a_user_s_tests_of_the_page_are_skipped(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if value is not None:
        monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.skip.Exception, match="NO CHROMIUM"):
        browser.executable()


def test_without_a_browser_they_fail_in_ci(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="NO CHROMIUM"):
        browser.executable()


@pytest.mark.parametrize(("reason", "said"), [(conftest.NO_BROWSER, True), ("another reason", False)])
def test_the_summary_says_how_many_tests_looked_at_no_page(reason: str, said: bool) -> None:
    skipped = [SimpleNamespace(longrepr=("tests/pipeline/test_page.py", 94, f"Skipped: {reason}"))] * 3
    lines = conftest.not_looked_at({"skipped": skipped, "passed": []})
    assert lines == ([f"3 TESTS OF THE REPORT'S PAGE DID NOT RUN. {conftest.NO_BROWSER}"] if said else [])
