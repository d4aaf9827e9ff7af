"""Translate with a trained Transformer: an argument, or every line of standard input.

python -m papers.attention_is_all_you_need.translate "Freitag, 3. Mai 2019"
python -m papers.attention_is_all_you_need.translate --run RUN < sentences.txt
python -m papers.attention_is_all_you_need.translate "3 May 2019" --attention out.png
"""

import argparse
import sys
from pathlib import Path

import torch

from common.config import default_checkpoint, find_run, load_run_config
from common.data.tokenization import Tokenizer
from common.utils import setup_logger
from common.utils.errors import exit_on_error
from common.utils.options import check_option
from common.visualization import plot_attention
from common.visualization.style import check_picture_path
from papers.attention_is_all_you_need.decoding import translate
from papers.attention_is_all_you_need.evaluate import load_translator
from papers.attention_is_all_you_need.model import TranslationTask
from papers.attention_is_all_you_need.train import Config


def main() -> None:
    """Read sentences, write one translation a line."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.attention_is_all_you_need.translate",
        description="Translate with a trained Transformer.",
    )
    parser.add_argument("sentence", nargs="*", help="what to translate; standard input if empty")
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--beam", type=int, help="beam size; the run's by default")
    parser.add_argument("--attention", type=Path, help="draw the last layer's attention here")
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        check_option("--beam", arguments.beam, 1)
        check_picture_path(arguments.attention)
        run = find_run(arguments.run, Path(__file__).parent)
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        if arguments.beam is not None:
            config.decode.beam_size = arguments.beam
        task, tokenizer = load_translator(config, context)
        sentences = arguments.sentence or [line.rstrip("\n") for line in sys.stdin]
        translations = translate(task, tokenizer, sentences, config.decode)
        sys.stdout.writelines(f"{translation}\n" for translation in translations)
        if arguments.attention is not None and sentences:
            draw_attention(task, tokenizer, sentences[0], translations[0], arguments.attention)


@torch.inference_mode()
def draw_attention(
    task: TranslationTask, tokenizer: Tokenizer, sentence: str, translation: str, out: Path
) -> None:
    """Draw which source tokens the last decoder layer looks at for every target token.

    Args:
        task: A trained task.
        tokenizer: Its tokenizer.
        sentence: The source.
        translation: The target; a translation, or any other text.
        out: The picture.
    """
    source = [*tokenizer.encode(sentence), tokenizer.eos_id]
    target = [*tokenizer.encode(translation), tokenizer.eos_id]
    read = [tokenizer.bos_id, *target[:-1]]
    device = next(task.parameters()).device
    maps = task.model.attention_maps(
        torch.tensor([source], device=device), torch.tensor([read], device=device)
    )
    plot_attention(
        maps["cross"][-1, 0], tokenizer.pieces(source), tokenizer.pieces(target), out, translation
    )


if __name__ == "__main__":
    main()
