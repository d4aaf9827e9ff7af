"""From a run's record to a number in a table: papers' claims, results, verdicts, pages over runs."""

from common.records.paper import Claim, Headline, Overfit, Paper, find_paper, papers
from common.records.results import Measurement, Row, add_row, read_results, write_results
from common.records.verdicts import Judgement, Standing, Status, Verdict, judge

__all__ = [
    "Claim",
    "Headline",
    "Judgement",
    "Measurement",
    "Overfit",
    "Paper",
    "Row",
    "Standing",
    "Status",
    "Verdict",
    "add_row",
    "find_paper",
    "judge",
    "papers",
    "read_results",
    "write_results",
]
