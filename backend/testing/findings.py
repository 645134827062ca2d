"""What a conformance check says: one line for each thing that it looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what: "panel pag on tiny-xl".
        claim: what should hold, in a few words: "undo is exact".
        reason: why it does not, or cannot be told; for what holds a figure, if there is one.
    """

    subject: str
    claim: str
    outcome: Outcome
    reason: str = ""

    def __str__(self) -> str:
        said = f": {self.reason}" if self.reason else ""
        return f"{self.outcome:<14}  {self.subject}: {self.claim}{said}"


@dataclass(frozen=True)
class Report:
    """All findings on one extension."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What does not hold."""
        return tuple(each for each in self.findings if each.outcome == "fail")

    def lines(self) -> Iterable[str]:
        """For a terminal: every finding, then the sum."""
        yield from map(str, self.findings)
        counts = Counter(each.outcome for each in self.findings)
        yield (
            f"{self.name}: {counts['pass']} passed, {counts['fail']} failed, {counts['not applicable']} not applicable."
        )

    def assert_passed(self) -> None:
        """For a test.

        Raises:
            AssertionError: naming everything that failed.
        """
        if self.failed:
            raise AssertionError("\n".join(map(str, self.failed)))


def held(subject: str, claim: str, problem: str | None, figure: str = "") -> Finding:
    """A pass, or a fail with the problem."""
    return Finding(subject, claim, "fail" if problem else "pass", problem or figure)
