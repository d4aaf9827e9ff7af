"""Cached greedy and beam decoding against Hugging Face ``generate``: tokens per second, same tokens.

Both libraries compute the same function: a MarianMT (post-norm, sinusoidal positions) gets the
weights of our ``Transformer``, and their logits are compared before anything is timed. Every
sentence gets the same number of new tokens (neither is given an end symbol), and the tokens must
be equal.

    python -m benchmarks.decoding --json benchmarks/results/decoding.json
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from benchmarks.harness import Column, Measure, Result, command_line, interleave, timed
from common.models import MultiHeadAttention, Transformer, beam_search, greedy_decode
from common.utils.errors import FaultError

PAD, BOS, NO_END = 0, 1, -1


_LAYERS, _D_MODEL, _VOCAB_SIZE, _NEW_TOKENS = 6, 256, 8000, 64
_HF, _OURS = "Hugging Face generate", "ours"
_SETTINGS = {"greedy_1": (1, 1), "greedy_8": (1, 8), "beam_1": (4, 1), "beam_8": (4, 8)}
_COLUMNS = [
    Column(key, f"{'greedy' if beam == 1 else f'beam {beam}'}, batch {batch}", 0, key)
    for key, (beam, batch) in _SETTINGS.items()
]
_NOTES = [
    f"Tokens per second; {_LAYERS} + {_LAYERS} layers, d_model {_D_MODEL}, {_NEW_TOKENS} new "
    f"tokens of {_VOCAB_SIZE:,}; a MarianMT with the same weights. In brackets, times Hugging Face. "
    "Logits agree to 1e-4 and the tokens are the same, or nothing is measured."
]


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


def decoding(repeats: int, quick: bool = False) -> Result:
    """Check that both compute and generate the same, then time them in turns.

    Args:
        repeats: Interleaved rounds.
        quick: A tiny model and few tokens.

    Raises:
        FaultError: if logits or tokens differ.
    """
    torch.manual_seed(0)
    layers, d_model, new_tokens = (2, 64, 8) if quick else (_LAYERS, _D_MODEL, _NEW_TOKENS)
    ours = talkative_transformer(_VOCAB_SIZE, d_model, 8, layers)
    theirs = marian_like(ours)
    check_logits(ours, theirs)
    searches: dict[str, dict[str, Callable[[], object]]] = {_HF: {}, _OURS: {}}
    tokens = {}
    for key, (beam_size, batch_size) in _SETTINGS.items():
        source = random_sources(batch_size, _VOCAB_SIZE, 10, 24)
        searches[_HF][key] = partial(hf_generate, theirs, source, new_tokens, beam_size)
        searches[_OURS][key] = partial(our_generate, ours, source, new_tokens, beam_size)
        if searches[_HF][key]() != searches[_OURS][key]():
            raise FaultError(f"beam {beam_size}, batch {batch_size}: the tokens differ")
        tokens[key] = batch_size * new_tokens

    def measured(row: str) -> Measure:
        return lambda: {k: tokens[k] / timed(s).wall for k, s in searches[row].items()}

    samples = interleave({row: measured(row) for row in searches}, repeats)
    return Result("decoding", _COLUMNS, samples, {_OURS: _HF}, _NOTES)


def check_logits(ours: Transformer, theirs: MarianMTModel) -> None:
    """Raises ``FaultError`` if the two do not compute the same function."""
    source, target = random_sources(4, _VOCAB_SIZE, 5, 12), torch.randint(3, _VOCAB_SIZE, (4, 9))
    with torch.inference_mode():
        expected = theirs(source, (source != PAD).long(), decoder_input_ids=target).logits
        difference = (ours(source, target) - expected).abs().max().item()
    if difference > 1e-4:
        raise FaultError(f"the logits differ by {difference:.1e}")


if __name__ == "__main__":
    command_line(decoding, repeats=9)
