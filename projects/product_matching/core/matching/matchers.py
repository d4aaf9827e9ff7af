"""A matcher for each finished fold: its network with the threshold that the other folds picked."""

from collections.abc import Mapping
from pathlib import Path

from common.config import load_run_config
from common.data.preprocessing import Preprocessing
from common.utils.checkpoint import load_checkpoint, load_weights
from projects.product_matching.core.config import Config
from projects.product_matching.core.evaluation import BOTH, IMAGE, SourceMatches
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.matching.match_rules import MatchRule, TextRule
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.matcher_files import matcher_path
from projects.product_matching.core.network import build_network
from projects.product_matching.core.text.titles import ENCODER
from projects.product_matching.core.training import FoldOutcome

_PREFIX = "model."  # of the network in a task


def save_matchers(
    home: Path,
    outcomes: Mapping[int, FoldOutcome],
    trained: Mapping[int, Items],
    judged: Mapping[str, SourceMatches],
) -> None:
    """Write the matcher of every fold.

    Args:
        home: The session's directory.
        outcomes: By fold.
        trained: What each fold was trained on.
        judged: By source; the threshold of a fold and its score are from here.

    Raises:
        CheckpointError: if a fold's weights are missing or damaged.
        FaultError: if a file cannot be written.
    """
    source = BOTH if BOTH in judged else IMAGE
    for number, outcome in outcomes.items():
        config, _ = load_run_config(Config, outcome.directory)
        path = outcome.directory / "checkpoints" / "last.pt"
        weights = load_checkpoint(path)["model"]
        own = {k.removeprefix(_PREFIX): v for k, v in weights.items() if k.startswith(_PREFIX)}
        network = build_network(config.model)
        load_weights(network, own, str(path))
        encoder = outcome.directory / ENCODER
        Matcher(
            network=network,
            section=config.model,
            preprocessing=Preprocessing(config.transforms.preprocessing),
            rule=_rule(config, judged, number),
            class_names=tuple(sorted(set(trained[number].labels))),
            run=home.name,
            fold=number,
            score=judged[source].folds[number].scores["f_score"],
            text=load_checkpoint(encoder) if encoder.is_file() else None,
        ).save(matcher_path(home, number))


def _rule(config: Config, judged: Mapping[str, SourceMatches], number: int) -> MatchRule:
    by_image = judged[IMAGE].folds[number].threshold
    assert by_image is not None
    text = None
    if BOTH in judged:
        both = judged[BOTH].folds[number]
        if both.union is not None:
            image, title = both.union.value
            text = TextRule("union", threshold=title, image_threshold=image)
        else:
            assert both.threshold is not None
            text = TextRule("concat", threshold=both.threshold.value, weight=config.text.weight)
    matching = config.matching
    return MatchRule(
        threshold=by_image.value,
        beta=matching.beta,
        min_matches=matching.min_matches,
        expansion=matching.expansion,
        alpha=matching.alpha,
        text=text,
    )
