"""The Transformer: an encoder-decoder of attention and feed-forward layers.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762), section 3. The paper
normalises after each residual sum (``norm="post"``); ``norm="pre"`` normalises each sub-layer's
input instead and adds one normalisation after each stack (Xiong et al. 2020, arXiv 2002.04745).

Sequences are padded on the right with ``pad_id``.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from common.models.attention import MultiHeadAttention
from common.models.dropout import Dropout
from common.models.incremental import DecoderState
from common.models.layers import DecoderLayer, EncoderLayer, FeedForward, Residual
from common.models.positions import LearnedPositions, SinusoidalPositions
from common.utils.errors import ConfigError


class Transformer(nn.Module):
    """Encoder-decoder Transformer; the defaults are the paper's base model (Table 3).

    Args:
        vocab_size: Number of tokens V; of the source alone if ``target_vocab_size`` is given.
        d_model: Width D.
        num_heads: Attention heads (the paper's h).
        num_encoder_layers: Layers of the encoder (the paper's N).
        num_decoder_layers: Layers of the decoder.
        d_ff: Inner width of the feed-forward networks.
        dropout: P_drop, on the sub-layers' outputs and the sums of embeddings and positions.
        attention_dropout: Dropout on attention weights (not in the paper).
        activation_dropout: Dropout inside the feed-forward networks (not in the paper).
        target_vocab_size: Size of the target's own vocabulary; None: one vocabulary is shared.
        norm: "post" as in the paper, or "pre".
        activation: "relu" as in the paper, or "gelu".
        positions: "sinusoidal" as in the paper, or "learned".
        max_len: Longest sequence there are positions for.
        tie_embeddings: Use one matrix for source, target and output (section 3.4); with two
            vocabularies, for target and output.
        pad_id: Token that fills sequences up on the right.

    Raises:
        ConfigError: d_model is not divisible by num_heads, or a name is not one of those above.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        d_ff: int = 2048,
        dropout: float = 0.1,
        *,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        target_vocab_size: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        positions: str = "sinusoidal",
        max_len: int = 1024,
        tie_embeddings: bool = True,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        for name, value, options in (
            ("norm", norm, ("post", "pre")),
            ("activation", activation, ("relu", "gelu")),
            ("positions", positions, ("sinusoidal", "learned")),
        ):
            if value not in options:
                raise ConfigError(f"{name} is {value!r}: expected one of {', '.join(options)}")

        def attention() -> MultiHeadAttention:
            return MultiHeadAttention(d_model, num_heads, attention_dropout)

        def feed_forward() -> FeedForward:
            return FeedForward(d_model, d_ff, activation, activation_dropout)

        def residual() -> Residual:
            return Residual(d_model, dropout, norm)

        def embedding(size: int) -> nn.Embedding:
            # Scaled by sqrt(D) on use, so that a token's components have unit variance.
            return nn.Embedding(size, d_model, _weight=torch.randn(size, d_model) * d_model**-0.5)

        self.d_model = d_model
        self.max_len = max_len
        self.pad_id = pad_id
        shared = tie_embeddings and target_vocab_size is None
        target_size = vocab_size if target_vocab_size is None else target_vocab_size
        self.source_embedding = embedding(vocab_size)
        # None stands for "the one before it", so that a state dict holds a shared matrix once.
        self.target_embedding = None if shared else embedding(target_size)
        self.output = None if tie_embeddings else nn.Linear(d_model, target_size, bias=False)
        if self.output is not None:
            nn.init.xavier_uniform_(self.output.weight)

        Table = SinusoidalPositions if positions == "sinusoidal" else LearnedPositions
        self.source_positions = Table(max_len, d_model)
        self.target_positions = Table(max_len, d_model)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(attention(), feed_forward(), residual(), residual())
            for _ in range(num_encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(
                attention(), attention(), feed_forward(), residual(), residual(), residual()
            )
            for _ in range(num_decoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(d_model) if norm == "pre" else nn.Identity()
        self.decoder_norm = nn.LayerNorm(d_model) if norm == "pre" else nn.Identity()

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The parameter that turns a hidden state into logits."""
        if self.output is not None:
            return self.output.weight
        return self._target_table.weight

    @property
    def _target_table(self) -> nn.Embedding:
        return self.target_embedding or self.source_embedding

    def encode(
        self, source: Int[Tensor, "B S"], maps: list[Tensor] | None = None
    ) -> Float[Tensor, "B S D"]:
        """The encoder's states; attention weights are appended to ``maps`` if given."""
        keep = (source != self.pad_id)[:, None, None]
        x = self.source_embedding(source) * math.sqrt(self.d_model)
        x = self.dropout(self.source_positions(x))
        for layer in self.encoder:
            x, weights = layer(x, keep, need_weights=maps is not None)
            if maps is not None:
                maps.append(weights)
        return self.encoder_norm(x)

    def decode(
        self,
        target: Int[Tensor, "B T"],
        memory: Float[Tensor, "B S D"],
        source_mask: Bool[Tensor, "B S"] | None = None,
        maps: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The decoder's states, before the output matrix.

        Padding in the target needs no mask: it stands to the right, where causality hides it.

        Args:
            target: Tokens the decoder reads, the first of them usually the start symbol.
            memory: The encoder's states.
            source_mask: True where the source is not padding.
            maps: Two lists to which self- and cross-attention weights are appended.
        """
        keep = None if source_mask is None else source_mask[:, None, None]
        x = self._target_table(target) * math.sqrt(self.d_model)
        x = self.dropout(self.target_positions(x))
        for layer in self.decoder:
            x, weights, cross_weights = layer(x, memory, keep, need_weights=maps is not None)
            if maps is not None:
                maps[0].append(weights)
                maps[1].append(cross_weights)
        return self.decoder_norm(x)

    def hidden(
        self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T D"]:
        """The decoder's states for given targets; times ``output_weight`` they are the logits."""
        return self.decode(target, self.encode(source), source != self.pad_id)

    def forward(
        self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each one of ``target``."""
        return F.linear(self.hidden(source, target), self.output_weight)

    @torch.no_grad()
    def attention_maps(
        self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
    ) -> dict[str, Float[Tensor, "_ B H _ _"]]:
        """Attention weights of every layer: "encoder" (S, S), "decoder" (T, T), "cross" (T, S)."""
        encoder: list[Tensor] = []
        decoder: list[Tensor] = []
        cross: list[Tensor] = []
        memory = self.encode(source, encoder)
        self.decode(target, memory, source != self.pad_id, maps=(decoder, cross))
        return {
            "encoder": torch.stack(encoder),
            "decoder": torch.stack(decoder),
            "cross": torch.stack(cross),
        }

    @torch.no_grad()
    def prepare(self, source: Int[Tensor, "B S"], max_len: int) -> DecoderState:
        """Encode a source once, for up to ``max_len`` steps (see ``common.models.decoding``).

        The state goes on with the weights of its first step, whatever becomes of the model.
        """
        memory = self.encode(source)
        layers = [cast("DecoderLayer", layer) for layer in self.decoder]
        return DecoderState(
            layers,
            self.decoder_norm,
            self.output_weight,
            [layer.cross_attention.project_memory(memory) for layer in layers],
            source != self.pad_id,
            max_len,
        )

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, "R"], state: DecoderState) -> Float[Tensor, "R V"]:
        """Logits of the next token of each row, after one more token was read."""
        x = self._target_table(tokens) * math.sqrt(self.d_model)
        return state.step(self.target_positions(x[:, None], state.length)[:, 0])
