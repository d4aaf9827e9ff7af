"""What ``match.py`` finds with a session's matcher is what the session reported out of fold."""

from pathlib import Path

import pytest

from common.metrics import Matches
from projects.product_matching.cli.match import main
from projects.product_matching.core.evaluation import BOTH, IMAGE
from projects.product_matching.core.matching.match_rules import Rows
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.session import Finished
from tests.projects.product_matching.sessions import finished


@pytest.fixture(scope="module")
def session() -> Finished:
    return finished()[1]


def _pairs(matches: Matches) -> set[tuple[int, int]]:
    return set(zip(matches.queries.tolist(), matches.ids.tolist(), strict=True))


@pytest.mark.parametrize("source", [IMAGE, BOTH])
def test_a_matcher_lists_what_the_report_of_its_fold_lists(session: Finished, source: str) -> None:
    for number, fold in session.judged[source].folds.items():
        matcher = Matcher.load(session.directory, number)
        items = fold.items
        rows = Rows(matcher.embed(items.sources))
        if source == BOTH:
            rows = Rows(rows.image, matcher.text_encoder.encode(items.titles or ()))
        found = matcher.rule.matches(rows)
        assert _pairs(found.matches) == _pairs(fold.matches)
        assert matcher.score == session.judged[BOTH].folds[number].scores["f_score"]


def test_a_session_is_matched_with_from_the_command_line(
    session: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = next(iter(session.judged[IMAGE].folds.values())).items.sources[0].parents[1]
    words = ["--titles", str(photos / "items.csv"), "--out", str(tmp_path)]
    main(["--run", str(session.directory), "--images", str(photos), *words])
    told = capsys.readouterr().out
    scores = [fold.scores["f_score"] for fold in session.judged[BOTH].folds.values()]
    best = scores.index(max(scores))
    assert f"fold {best} held out (F {max(scores):.3f} on that fold)" in told
    assert (tmp_path / "matches.csv").read_text().startswith("image,match,score\n")
