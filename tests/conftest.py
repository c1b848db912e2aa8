"""Every collected test must run: a run that leaves one out fails, and says how many are missing.

Tests that share a node ID are one test to pytest-xdist, which runs it once.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest


class EveryTestRuns:
    """Compares what was collected with what finished. With pytest-xdist, in the process that distributes the tests."""

    def __init__(self) -> None:
        self.collected = 0
        self.finished = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = max(self.collected, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self.collected = max(self.collected, len(ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.finished += report.when == "teardown"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self.finished < self.collected and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        missing = self.collected - self.finished
        if missing > 0 and not terminalreporter.config.option.collectonly:
            terminalreporter.write_line(f"{missing} of {self.collected} collected tests did not run", red=True)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not in the processes of pytest-xdist
        config.pluginmanager.register(EveryTestRuns())
