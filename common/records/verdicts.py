"""What the evidence says: a verdict on every claim, and the status a paper has earned by it.

A claim is judged by rows of its own configuration at full scale only; a reduced row is shown beside
it and proves nothing about the paper's number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.records.paper import Claim, Paper
from common.records.results import Row, read_results


class Verdict(StrEnum):
    """What became of a claim."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    REDUCED = "reduced scale"
    NOT_RUN = "not run"


class Status(StrEnum):
    """What a paper's implementation has shown, from least to most."""

    DRAFT = "draft"
    RUNS = "runs"
    TRAINED = "trained"
    REPRODUCED = "reproduced"
    DIFFERS = "differs"


@dataclass(frozen=True)
class Judgement:
    """A claim beside the row that speaks to it.

    Attributes:
        claim: The paper's number.
        verdict: What became of it.
        row: The newest full row of its configuration, else the newest reduced one.
        ours: That row's number.
    """

    claim: Claim
    verdict: Verdict
    row: Row | None = None
    ours: float | None = None

    @property
    def gap(self) -> float | None:
        """Ours minus the paper's, where the two are the same experiment."""
        if self.ours is None or self.row is None or not self.row.is_full:
            return None
        return self.ours - self.claim.value


def judge(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Hold a claim against the rows of its configuration.

    Args:
        claim: The paper's number.
        rows: In the order they were recorded.
    """
    found = [r for r in rows if r.config == claim.config and r.value(claim.metric) is not None]
    if not found:
        return Judgement(claim, Verdict.NOT_RUN)
    row = ([row for row in found if row.is_full] or found)[-1]
    ours = row.value(claim.metric)
    assert ours is not None
    if not row.is_full:
        return Judgement(claim, Verdict.REDUCED, row, ours)
    slack = 1e-9 * max(1.0, abs(claim.value))  # 0.9175 - 0.9125 is a little more than 0.005
    within = abs(ours - claim.value) <= claim.tolerance + slack
    return Judgement(claim, Verdict.REPRODUCED if within else Verdict.DIFFERS, row, ours)


def status(paper: Paper, rows: Sequence[Row]) -> Status:
    """The status of a paper.

    A count of parameters reproduces nothing, nor does a number of somebody else: only the paper's own
    claims about what training reaches count.
    """
    own = [claim for claim in paper.claims if not claim.is_count and not claim.source]
    verdicts = {judge(claim, rows).verdict for claim in own}
    if Verdict.DIFFERS in verdicts:
        return Status.DIFFERS
    if Verdict.REPRODUCED in verdicts:
        return Status.REPRODUCED
    if rows:
        return Status.TRAINED
    return Status.RUNS if is_complete(paper) else Status.DRAFT


def is_complete(paper: Paper) -> bool:
    """Whether the folder has what the contract needs to try it."""
    files = ("README.md", "config.yaml", "model.py", "train.py", "evaluate.py", "results.json")
    has_files = all((paper.folder / name).is_file() for name in files)
    return has_files and bool(paper.smoke) and paper.overfit is not None


@dataclass(frozen=True)
class Standing:
    """A paper with its rows, its judged claims and the status that follows."""

    paper: Paper
    rows: list[Row]
    judgements: list[Judgement]
    status: Status

    @classmethod
    def of(cls, paper: Paper) -> "Standing":
        """Read a paper's rows and judge its claims."""
        rows = read_results(paper.folder)
        judgements = [judge(claim, rows) for claim in paper.claims]
        return cls(paper, rows, judgements, status(paper, rows))

    @property
    def headline(self) -> Judgement | None:
        """The claim the paper is listed with: the best supported one of the headline metric."""
        order = [Verdict.REPRODUCED, Verdict.DIFFERS, Verdict.REDUCED, Verdict.NOT_RUN]
        of_metric = [j for j in self.judgements if j.claim.metric == self.paper.headline.metric]
        return min(of_metric, key=lambda j: order.index(j.verdict), default=None)

    @property
    def shown_row(self) -> Row | None:
        """The row the paper is listed with: the headline claim's, else the largest measured."""
        if self.headline is not None and self.headline.row is not None:
            return self.headline.row
        metric = self.paper.headline.metric
        measured = [row for row in self.rows if metric in row.metrics]
        return max(measured, key=lambda row: row.hours or 0.0, default=None)
