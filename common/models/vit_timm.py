"""timm's names of the Vision Transformer's weights, and ours: each loads what the other saved.

The tensors are the same, shape by shape; only their names differ. The weights published with
Dosovitskiy et al. 2020 (arXiv 2010.11929) and its successors exist under timm's names.
"""

from collections.abc import Mapping

from torch import Tensor

from common.models.vit import VisionTransformer
from common.utils.errors import CheckpointError

# What a name begins with or contains in timm, and what stands there in ours.
_NAMES = (
    ("cls_token", "class_token"),
    ("pos_embed", "positions"),
    ("patch_embed.proj.", "patch_embedding."),
    ("blocks.", "encoder."),
    (".norm1.", ".attention_residual.norm."),
    (".norm2.", ".feed_forward_residual.norm."),
    (".attn.qkv.", ".attention.in_proj."),
    (".attn.proj.", ".attention.out_proj."),
    (".mlp.fc1.", ".feed_forward.linear1."),
    (".mlp.fc2.", ".feed_forward.linear2."),
)


def load_timm_weights(model: VisionTransformer, weights: Mapping[str, Tensor]) -> None:
    """Give ``model`` the weights of a timm ``VisionTransformer`` of the same sizes.

    Args:
        model: Ours.
        weights: A state dict of timm's, for example a ``.safetensors`` file of its models.

    Raises:
        CheckpointError: if a tensor is missing, left over, or of another shape; nothing is
            loaded then.
    """
    renamed = {_renamed(name, 0, 1): value for name, value in weights.items()}
    own = model.state_dict()
    for name, value in own.items():
        theirs = _renamed(name, 1, 0)
        if name not in renamed:
            raise CheckpointError(f"timm's weights have no '{theirs}', which the model needs")
        if renamed[name].shape != value.shape:
            raise CheckpointError(
                f"timm's '{theirs}' has the shape {tuple(renamed[name].shape)}, expected "
                f"{tuple(value.shape)}: the models differ in size"
            )
    if left_over := sorted(renamed.keys() - own.keys()):
        raise CheckpointError(
            f"timm's weights have '{_renamed(left_over[0], 1, 0)}' ({len(left_over)} such), for "
            "which the model has no place"
        )
    model.load_state_dict(renamed)


def timm_weights(model: VisionTransformer) -> dict[str, Tensor]:
    """The weights of ``model`` under timm's names, for ``timm``'s ``load_state_dict``."""
    return {_renamed(name, 1, 0): value for name, value in model.state_dict().items()}


def _renamed(name: str, old: int, new: int) -> str:
    for pair in _NAMES:
        name = name.replace(pair[old], pair[new])
    return name
