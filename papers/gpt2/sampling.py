"""Going on with a text: from a prompt to a prompt and what follows it."""

from dataclasses import dataclass

import torch

from common.config import option
from common.models import GPT, sample
from papers.gpt2.tokenization import TextTokenizer


@dataclass
class SampleConfig:
    """How a text is gone on with."""

    prompt: str = option("what the text begins with", "\n")
    tokens: int = option("how many to add", 300, ge=0)
    temperature: float = option("divides the logits; 0: the most probable token", 0.8, ge=0)
    top_k: int | None = option("draw from the k most probable tokens", None, ge=1)
    top_p: float | None = option("draw from the nucleus of this probability", None, gt=0, le=1)


def continue_text(model: GPT, tokenizer: TextTokenizer, config: SampleConfig, seed: int = 0) -> str:
    """The prompt and what the model makes of it.

    Args:
        model: It comes back in the mode (training or not) it had.
        tokenizer: The model's.
        config: How to draw.
        seed: Of the draws; they come from a generator of their own.

    Raises:
        DataError: the prompt is empty, or has characters that the vocabulary lacks.
    """
    device = model.output_weight.device
    prompt = torch.as_tensor(tokenizer.encode([config.prompt]).astype("int64"), device=device)
    was_training = model.training
    model.eval()
    text = sample(
        model,
        prompt[None],
        config.tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        generator=torch.Generator(device).manual_seed(seed),
    )
    model.train(was_training)
    return tokenizer.decode(text[0].tolist())
