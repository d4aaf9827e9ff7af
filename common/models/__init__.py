"""Building blocks of the papers: attention, the Transformer, decoding, image backbones."""

from common.models.attention import (
    KeyValue,
    MultiHeadAttention,
    causal_mask,
    scaled_dot_product,
)
from common.models.backbones import TimmBackbone, is_timm_name
from common.models.decoding import (
    SearchState,
    SequenceModel,
    beam_search,
    greedy_decode,
    length_limits,
    length_penalty_factor,
)
from common.models.dolg import DOLG, OrthogonalFusion, embed_multi_scale
from common.models.dropout import Dropout
from common.models.embedding import ConvBackbone, EmbeddingNetwork
from common.models.end_layers import (
    adapted_channels,
    first_convolution,
    head_of,
    heads_of,
    without_heads,
)
from common.models.gpt import GPT
from common.models.incremental import DecoderState
from common.models.kv_cache import KVCache
from common.models.normalize import Normalize
from common.models.pooling import GeM
from common.models.positions import LearnedPositions, SinusoidalPositions, sinusoidal_table
from common.models.resnet import ResNet
from common.models.sampling import (
    CachedModel,
    filter_logits,
    sample,
    top_k_filter,
    top_p_filter,
)
from common.models.transformer import Transformer
from common.models.vit import VisionTransformer
from common.models.vit_timm import load_timm_weights, timm_weights

__all__ = [
    "DOLG",
    "GPT",
    "CachedModel",
    "ConvBackbone",
    "DecoderState",
    "Dropout",
    "EmbeddingNetwork",
    "GeM",
    "KVCache",
    "KeyValue",
    "LearnedPositions",
    "MultiHeadAttention",
    "Normalize",
    "OrthogonalFusion",
    "ResNet",
    "SearchState",
    "SequenceModel",
    "SinusoidalPositions",
    "TimmBackbone",
    "Transformer",
    "VisionTransformer",
    "adapted_channels",
    "beam_search",
    "causal_mask",
    "embed_multi_scale",
    "filter_logits",
    "first_convolution",
    "greedy_decode",
    "head_of",
    "heads_of",
    "is_timm_name",
    "length_limits",
    "length_penalty_factor",
    "load_timm_weights",
    "sample",
    "scaled_dot_product",
    "sinusoidal_table",
    "timm_weights",
    "top_k_filter",
    "top_p_filter",
    "without_heads",
]
