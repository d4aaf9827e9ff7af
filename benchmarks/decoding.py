"""Cached greedy and beam decoding against Hugging Face ``generate``: tokens per second, same tokens.

Both libraries compute the same function: a MarianMT (post-norm, sinusoidal positions) gets the
weights of our ``Transformer``, and their logits are compared before anything is timed. Every
sentence gets the same number of new tokens (neither is given an end symbol), and the tokens must
be equal. The two take turns in one process; the medians are reported.

    python -m benchmarks.decoding --output decoding.json
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from common.models import MultiHeadAttention, Transformer, beam_search, greedy_decode

PAD, BOS, NO_END = 0, 1, -1


@dataclass
class Comparison:
    """One setting: what both did, and how fast."""

    batch_size: int
    beam_size: int
    new_tokens: int
    clock: str
    ours_tokens_per_s: float
    hf_tokens_per_s: float
    ratio: float  # median over the rounds of (their time / our time)
    same_tokens: bool
    distinct_tokens: int  # in what was generated: how hard "the same" is


def talkative_transformer(
    vocab_size: int, d_model: int, heads: int, layers: int, sharpness: float = 3.0
) -> Transformer:
    """A random model whose next token depends on the last, so that its sentences are varied.

    Fresh weights wash the last token out and repeat one token for ever, which would make equal
    tokens a weak test. Here the sub-layers add less and the logits' deviation is ``sharpness``.
    """
    model = Transformer(
        vocab_size,
        d_model,
        heads,
        layers,
        layers,
        4 * d_model,
        tie_embeddings=False,
        max_len=512,
        pad_id=PAD,
    ).eval()
    with torch.no_grad():
        for layer in model.decoder:
            for part in (layer.attention.out_proj, layer.cross_attention.out_proj):
                part.weight.mul_(0.25)
            layer.feed_forward.linear2.weight.mul_(0.25)
        source, target = torch.randint(3, vocab_size, (2, 16, 32))
        hidden = model.hidden(source, target).flatten(0, 1)
        model.decoder[-1].feed_forward_residual.norm.bias.sub_(hidden.mean(0))
        deviation = ((hidden - hidden.mean(0)) @ model.output_weight.T).std()
        model.output_weight.mul_(sharpness / deviation)
    return model


def marian_like(model: Transformer) -> MarianMTModel:
    """A MarianMT that computes the same function as an untied ``model``, with its weights."""
    layer = model.encoder[0]
    heads, inner = layer.attention.num_heads, layer.feed_forward.linear1.out_features
    vocab_size = len(model.output_weight)
    config = MarianConfig(
        vocab_size=vocab_size,
        decoder_vocab_size=vocab_size,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
        d_model=model.d_model,
        encoder_layers=len(model.encoder),
        decoder_layers=len(model.decoder),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_position_embeddings=model.max_len,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=model.pad_id,
        decoder_start_token_id=BOS,
        eos_token_id=None,
        forced_eos_token_id=None,
        dropout=0.0,
    )
    theirs = MarianMTModel(config).eval()
    weights = {
        "final_logits_bias": torch.zeros(1, vocab_size),
        "model.encoder.embed_tokens.weight": model.source_embedding.weight,
        "model.decoder.embed_tokens.weight": model.target_embedding.weight,
        "lm_head.weight": model.output_weight,
    }
    # Marian puts all sines before all cosines; the order of a table's columns is the weights'.
    weights["model.encoder.embed_positions.weight"] = model.source_positions.table
    weights["model.decoder.embed_positions.weight"] = model.target_positions.table

    def attention(name: str, ours: MultiHeadAttention) -> None:
        for part, weight, bias in zip(
            "qkv", ours.in_proj.weight.chunk(3), ours.in_proj.bias.chunk(3), strict=True
        ):
            weights[f"{name}.{part}_proj.weight"] = weight
            weights[f"{name}.{part}_proj.bias"] = bias
        linear(f"{name}.out_proj", ours.out_proj)

    def linear(name: str, ours: torch.nn.Module) -> None:
        for part, value in ours.named_parameters():
            weights[f"{name}.{part}"] = value

    for stack in ("encoder", "decoder"):
        for i, layer in enumerate(getattr(model, stack)):
            name = f"model.{stack}.layers.{i}"
            attention(f"{name}.self_attn", layer.attention)
            linear(f"{name}.self_attn_layer_norm", layer.attention_residual.norm)
            if stack == "decoder":
                attention(f"{name}.encoder_attn", layer.cross_attention)
                linear(f"{name}.encoder_attn_layer_norm", layer.cross_residual.norm)
            linear(f"{name}.fc1", layer.feed_forward.linear1)
            linear(f"{name}.fc2", layer.feed_forward.linear2)
            linear(f"{name}.final_layer_norm", layer.feed_forward_residual.norm)
    theirs.load_state_dict({name: value.detach().clone() for name, value in weights.items()})
    return theirs


def random_sources(batch_size: int, vocab_size: int, shortest: int, longest: int) -> Tensor:
    """Sentences of lengths spread between the two, padded; the first is the longest."""
    lengths = torch.linspace(longest, shortest, batch_size).round().long()
    source = torch.randint(3, vocab_size, (batch_size, longest))
    return source.masked_fill(torch.arange(longest) >= lengths[:, None], PAD)


def hf_generate(
    model: MarianMTModel, source: Tensor, new_tokens: int, beam_size: int
) -> list[list[int]]:
    """What ``generate`` returns without the start symbol, sums of log-probabilities compared."""
    beams = {"num_beams": beam_size, "length_penalty": 0.0, "early_stopping": "never"}
    output = model.generate(
        source,
        attention_mask=(source != PAD).long(),
        max_new_tokens=new_tokens,
        do_sample=False,
        use_cache=True,
        **(beams if beam_size > 1 else {}),
    )
    return output[:, 1:].tolist()


def our_generate(
    model: Transformer, source: Tensor, new_tokens: int, beam_size: int
) -> list[list[int]]:
    """The same search with ours."""
    options: dict[str, Any] = {"bos_id": BOS, "eos_id": NO_END, "max_len": new_tokens}
    if beam_size == 1:
        return greedy_decode(model, source, **options)
    return beam_search(model, source, beam_size=beam_size, length_penalty=0.0, **options)


def measure(
    contenders: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; within a round they take turns (A B, A B, ...)."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = clock()
            contender()
            seconds[name].append(clock() - start)
    return seconds


def compare(
    ours: Transformer, theirs: MarianMTModel, batch_size: int, beam_size: int, options: Any
) -> Comparison:
    """Check that both generate the same tokens, then time them."""
    torch.manual_seed(options.seed)
    source = random_sources(batch_size, options.vocab_size, 10, 24)
    contenders = {
        "ours": lambda: our_generate(ours, source, options.new_tokens, beam_size),
        "hf": lambda: hf_generate(theirs, source, options.new_tokens, beam_size),
    }
    generated = contenders["ours"]()
    same = generated == contenders["hf"]()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    seconds = measure(contenders, options.rounds, clock)
    tokens = batch_size * options.new_tokens
    return Comparison(
        batch_size=batch_size,
        beam_size=beam_size,
        new_tokens=options.new_tokens,
        clock=options.clock,
        ours_tokens_per_s=tokens / statistics.median(seconds["ours"]),
        hf_tokens_per_s=tokens / statistics.median(seconds["hf"]),
        ratio=statistics.median(
            hf / our for our, hf in zip(seconds["ours"], seconds["hf"], strict=True)
        ),
        same_tokens=same,
        distinct_tokens=len({token for sentence in generated for token in sentence}),
    )


def table(results: list[Comparison]) -> str:
    """The results as Markdown."""
    lines = [
        "| search | batch | HF tokens/s | ours tokens/s | ratio | same tokens |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        search = "greedy" if result.beam_size == 1 else f"beam {result.beam_size}"
        lines.append(
            f"| {search} | {result.batch_size} | {result.hf_tokens_per_s:.0f} "
            f"| {result.ours_tokens_per_s:.0f} | {result.ratio:.2f}x "
            f"| {'yes' if result.same_tokens else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Returns 1 if the logits or the tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    ours = talkative_transformer(options.vocab_size, options.d_model, options.heads, options.layers)
    theirs = marian_like(ours)
    source = random_sources(4, options.vocab_size, 5, 12)
    target = torch.randint(3, options.vocab_size, (4, 9))
    with torch.inference_mode():
        expected = theirs(source, (source != PAD).long(), decoder_input_ids=target).logits
        difference = (ours(source, target) - expected).abs().max().item()
    print(f"largest difference of the logits: {difference:.1e}", flush=True)
    results = [
        compare(ours, theirs, batch_size, beam_size, options)
        for beam_size in (1, 4)
        for batch_size in (1, 8)
    ]
    print(table(results))
    if options.output is not None:
        record = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.processor() or platform.machine(),
            "options": {name: str(value) for name, value in vars(options).items()},
            "logit_difference": difference,
            "results": [asdict(result) for result in results],
        }
        options.output.write_text(json.dumps(record, indent=2) + "\n")
    return int(difference > 1e-4 or not all(result.same_tokens for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
