"""A test run lists its skipped tests at the end, and fails if ``--forbid-skips`` does not allow one of them."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SUITE = """
    import pytest
    def test_that_passes(): pass
    @pytest.mark.skip(reason="needs a GPU")
    def test_of_hardware(): pass
"""
FORGOTTEN = """
    import pytest
    def test_of_an_extra(): pytest.importorskip("a_module_that_nobody_has")
"""


@pytest.fixture
def suite(pytester):
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makepyfile(test_a=SUITE)
    return pytester


def test_hardware_may_be_missing(suite):
    found = suite.runpytest_inprocess("--forbid-skips", "-n0", "-p", "no:cacheprovider")
    assert found.ret == 0
    found.stdout.fnmatch_lines(["*1 × needs a GPU", "*test_a.py::test_of_hardware"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_extra_may_not(suite, workers):
    suite.makepyfile(test_b=FORGOTTEN)
    run = suite.runpytest_inprocess if workers == "0" else suite.runpytest_subprocess
    found = run("--forbid-skips", "-n", workers, "-p", "no:cacheprovider")
    assert found.ret == 1
    found.stdout.fnmatch_lines(["1 × could not import 'a_module_that_nobody_has'*NOT ALLOWED"])


def test_it_may_where_nobody_forbids_it(suite):
    suite.makepyfile(test_b=FORGOTTEN)
    assert suite.runpytest_inprocess("-n0", "-p", "no:cacheprovider").ret == 0
