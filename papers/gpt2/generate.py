"""Go on with a text: by a trained run, or by a published GPT-2.

python -m papers.gpt2.generate "To be" --temperature 0.8 --top-k 40 --top-p 0.95 --tokens 300
python -m papers.gpt2.generate "To be" --run RUN --seed 1
python -m papers.gpt2.generate "The meaning of life is" --hf-model gpt2
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from common.config import default_checkpoint, find_run, load_run_config
from common.data.info import DatasetInfo
from common.models import GPT
from common.training import restore_task
from common.utils import setup_logger
from common.utils.errors import exit_on_error
from common.utils.options import check_option, check_seed
from papers.gpt2.hf_weights import load_hf_model
from papers.gpt2.model import LanguageModelTask
from papers.gpt2.sampling import SampleConfig, continue_text
from papers.gpt2.tokenization import TextTokenizer, load_tokenizer
from papers.gpt2.train import Config


def main() -> None:
    """Read the options, write the text."""
    arguments = _parser().parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        check_option("--tokens", arguments.tokens, 0)
        check_seed(arguments.seed)
        if arguments.hf_model is not None:
            model, tokenizer = load_hf_model(arguments.hf_model)
            sample = SampleConfig()
        else:
            run = find_run(arguments.run, Path(__file__).parent)
            model, tokenizer, sample = load_language_model(run, arguments.checkpoint)
        given = {
            name: value
            for name in ("prompt", "tokens", "temperature", "top_k", "top_p")
            if (value := getattr(arguments, name)) is not None
        }
        text = continue_text(model, tokenizer, replace(sample, **given), arguments.seed)
        sys.stdout.write(text + "\n")


def load_language_model(
    run: Path, checkpoint: str | None = None
) -> tuple[GPT, TextTokenizer, SampleConfig]:
    """The model of a run in evaluation mode, its tokenizer, and how the run samples.

    Args:
        run: The run's directory.
        checkpoint: ``final``, ``best``, ``last`` or a file; the finished weights by default.

    Raises:
        CheckpointError: if the weights are missing, damaged, or do not fit.
        DataError: if the tokenizer is missing or damaged.
    """
    config, context = load_run_config(Config, run)
    context.checkpoint = checkpoint or default_checkpoint(run)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    info = DatasetInfo(vocab_size=tokenizer.vocab_size, input_shape=(config.data.block_size,))
    task = restore_task(LanguageModelTask(config.model), info, config, context)
    return task.model, tokenizer, config.sample


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers.gpt2.generate", description="Go on with a text."
    )
    parser.add_argument("prompt", nargs="?", help="what the text begins with; the run's by default")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", help="run directory; the newest run by default")
    source.add_argument("--hf-model", help="a published GPT-2 instead of a run, e.g. gpt2")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--tokens", type=int, help="how many to add; the run's by default")
    parser.add_argument(
        "--temperature", type=float, help="0: the most probable token; the run's by default"
    )
    parser.add_argument("--top-k", type=int, help="draw from the k most probable tokens")
    parser.add_argument("--top-p", type=float, help="draw from the nucleus of this probability")
    parser.add_argument("--seed", type=int, default=0, help="of the draws: %(default)s")
    return parser


if __name__ == "__main__":
    main()
