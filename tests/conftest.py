"""List skipped tests at the end of a run; with ``--forbid-skips``, fail on any reason but missing hardware."""

import logging
import re
import sys
from collections import defaultdict
from functools import partial

import pytest
from hypothesis import settings

# A busy machine makes any example slow; benchmarks measure time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

#: Reasons for which a test may be skipped: properties of a machine that no installation can change.
HARDWARE = (
    r"needs a GPU",
    r"(a|this) CPU (that )?multiplies (no )?8-bit numbers",
)
#: More such reasons on systems other than Linux.
ELSEWHERE = (
    r"asks Linux\b",
    r"reads what Linux says\b",
    r"glibc's own behaviour",
    r"locks are POSIX",
    r"needs systemd-analyze",
    r"not told here",
)


@pytest.fixture(autouse=True)
def log_as_a_library():
    """Give every test the logger as importing the package leaves it; the command line sets up its own logging."""
    logger = logging.getLogger("feddat")
    logger.handlers, logger.propagate = [], True
    for name in logging.root.manager.loggerDict:
        if name.partition(".")[0] == "feddat":
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def no_workers(monkeypatch):
    """Compute the runs of grids in this process, since new processes take long to load their libraries."""

    def run_here(function, tasks, jobs, on_event):
        results, failures = {}, {}
        for name, task in tasks.items():
            try:
                results[name] = function(task, partial(on_event, name))
            except Exception as error:
                failures[name] = str(error)
                on_event(name, {"event": "failure", "reason": str(error)})
        return results, failures

    monkeypatch.setattr("feddat.experiment.grids.comparison.run_parallel", run_here)


def pytest_addoption(parser):
    parser.addoption("--forbid-skips", action="store_true", help="fail if a test that the hardware allows is skipped")


def reason_of(report):
    """Return why a test, or a file of tests, was skipped."""
    told = report.longrepr
    text = told[2] if isinstance(told, tuple) else str(told)
    return text.removeprefix("Skipped: ")


def may_skip(reason, platform=sys.platform):
    """Return whether a test may be skipped for this reason on this platform."""
    allowed = HARDWARE if platform.startswith("linux") else HARDWARE + ELSEWHERE
    return any(re.match(pattern, reason) for pattern in allowed)


def _skipped(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get("skipped", []) if reporter else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    if hasattr(session.config, "workerinput") or not session.config.getoption("--forbid-skips"):
        return
    if exitstatus == pytest.ExitCode.OK and not all(may_skip(reason_of(one)) for one in _skipped(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    tests = defaultdict(list)
    for report in _skipped(config):
        tests[reason_of(report)].append(report.nodeid)
    if not tests:
        return
    terminalreporter.section("skipped")
    for reason, names in sorted(tests.items()):
        forbidden = config.getoption("--forbid-skips") and not may_skip(reason)
        terminalreporter.line(f"{len(names)} × {reason}{'  NOT ALLOWED' if forbidden else ''}", red=forbidden)
        for name in names:
            terminalreporter.line(f"    {name}")
