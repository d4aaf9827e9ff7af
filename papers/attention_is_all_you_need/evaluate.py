"""Score a trained Transformer on its test split, as the end of its training did.

python -m papers.attention_is_all_you_need.evaluate                    # the newest run
python -m papers.attention_is_all_you_need.evaluate --run RUN decode.beam_size=1
"""

from common.config import RunContext, launch
from common.data.info import DatasetInfo
from common.data.tokenization import Tokenizer
from common.training import report, restore_task
from papers.attention_is_all_you_need.dataset import load_splits
from papers.attention_is_all_you_need.model import TranslationTask
from papers.attention_is_all_you_need.train import Config, translate_test


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and score them; returns BLEU."""
    task, tokenizer = load_translator(config, context)
    metrics = translate_test(task, tokenizer, load_splits(config.data)["test"], config)
    report(metrics, context)
    return metrics["test/bleu"]


def load_translator(config: Config, context: RunContext) -> tuple[TranslationTask, Tokenizer]:
    """The task of a run with its weights, in evaluation mode, and its tokenizer.

    Args:
        config: The run's.
        context: Names the run (``run_dir``) and which of its weights to take.

    Raises:
        ValueError: if ``context`` names no run.
        CheckpointError: if the weights are missing, damaged, or do not fit.
        DataError: if the tokenizer is missing or damaged. (Another one than the run was trained
            with is a contradiction that ``context`` names.)
    """
    if context.run_dir is None:
        raise ValueError("the context names no run; make it with load_run_config")
    tokenizer = Tokenizer.load(context.run_dir / "tokenizer.json")
    context.resolve("data.tokenizer_sha256", tokenizer.sha256)
    task = TranslationTask(config.model, config.label_smoothing)
    info = DatasetInfo(vocab_size=tokenizer.vocab_size)
    return restore_task(task, info, config, context), tokenizer


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
