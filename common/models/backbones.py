"""timm's networks as backbones of embeddings: feature maps instead of logits.

    backbone = TimmBackbone("resnet50", features=(3, 4), in_channels=3)
    backbone(images)               # (B, 2048, H/32, W/32), before any pooling
    backbone.feature_maps(images)  # (B, 1024, H/16, W/16) and (B, 2048, H/32, W/32)

A stage is called by its stride: stage s is the last layer whose map is 2^(s+1) times smaller than
the image. Stages 1 to 4 of a ResNet are conv2_x to conv5_x (He et al. 2015, 1512.03385, Table 1).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from common.utils.errors import CheckpointError, ConfigError
from common.utils.text import did_you_mean


class TimmBackbone(nn.Module):
    """A network of timm without its pooling and its last layer, or with both.

    ``forward`` gives the map that timm calls the unpooled features; layers that only a classifier
    needs are left out. The patch tokens of a vision transformer are put back where they are in the
    image, and its class token is dropped.

    Args:
        model_name: timm's name, with or without the tag of its weights.
        pretrained: The published weights are wanted. This module fetches nothing: until
            ``common.training.load_published`` puts them in, or a state dict is loaded, it refuses
            to compute.
        remove_fc: ``False`` keeps timm's pooling and classifier: ``forward`` gives logits.
        features: Stages that ``feature_maps`` gives, in ascending order. The network ends at the
            deepest of them.
        in_channels: C of the images, 1 or 3. Published weights of a first convolution are summed
            over the colours for grey images.
        num_classes: K, only with ``remove_fc=False``.
        drop_path: The rate of stochastic depth in the last block.
        img_size: Height and width of the images in pixels, for networks built for one size (most
            transformers); others take any and do not look at it.

    Attributes:
        num_features: C of the map that ``forward`` gives (of what is pooled, with a classifier).
        channels: C of each stage.
        reduction: The stride of each stage.
        mean: Of each channel, with values from 0 to 1, that the weights were trained with; their
            average for grey images.
        std: The standard deviation of the same.
        awaits_weights: Whether published weights are wanted and not yet there.

    Raises:
        ConfigError: if timm has no such network, or it cannot be built like this.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        *,
        remove_fc: bool = True,
        features: Sequence[int] = (),
        in_channels: int = 3,
        num_classes: int | None = None,
        drop_path: float = 0.0,
        img_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_name(model_name)
        if in_channels not in (1, 3):
            raise ConfigError(f"in_channels is {in_channels}; expected 1 or 3")
        if not 0.0 <= drop_path < 1.0:
            raise ConfigError(f"drop_path is {drop_path}; expected 0 to below 1")
        if remove_fc == (num_classes is not None):
            raise ConfigError(
                f"num_classes is {num_classes} with remove_fc={remove_fc}; expected a number with "
                "remove_fc=False, and none without a classifier"
            )
        if features and not remove_fc:
            raise ConfigError("features are maps of a network with remove_fc=True; it is False")
        self.model_name, self.remove_fc = model_name, remove_fc
        self.features = tuple(features)
        self._options: dict[str, Any] = {"in_chans": in_channels, "num_classes": num_classes or 0}
        if drop_path:
            self._options["drop_path_rate"] = drop_path
        self._size = _fixed_size(model_name, img_size)
        if self._size is not None and img_size is not None:
            self._options["img_size"] = self._size
        self.net = self._create()
        config = self.net.pretrained_cfg
        self.mean, self.std = (_of_channels(config[key], in_channels) for key in ("mean", "std"))
        self.num_features: int = self.net.num_features
        self._index = _stages(self.net)
        infos = _infos(self.net)
        self.channels = {stage: int(infos[i]["num_chs"]) for stage, i in self._index.items()}
        self.reduction = {stage: 2 ** (stage + 1) for stage in self._index}
        self._is_cut = False
        if remove_fc:
            self._remove_rest()
        self.awaits_weights = pretrained
        self.register_load_state_dict_post_hook(_has_weights)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B *rest"]:
        """The last map ``(B, C, h, w)``; logits ``(B, K)`` with ``remove_fc=False``.

        Raises:
            ConfigError: if published weights are awaited, the network was built for another size of
                image, or what it gives is no map.
        """
        self._check(images)
        if self._is_cut:
            return self.feature_maps(images)[-1]
        if not self.remove_fc:
            logits: Tensor = self.net(images)
            return logits
        return self._map(self.net.forward_features(images), images)

    def feature_maps(
        self, images: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """The maps of the stages in ``features``; the last one is that of ``forward``.

        Raises:
            ConfigError: as ``forward``, or if no stages were asked for.
        """
        self._check(images)
        if not self.features:
            raise ConfigError(f"{self.model_name} was built without features; name its stages")
        indices = [self._index[stage] for stage in self.features]
        if self._is_cut:
            maps = self.net.forward_intermediates(images, indices=indices, intermediates_only=True)
            return tuple(maps)
        last, maps = self.net.forward_intermediates(images, indices=indices)
        return (*maps[:-1], self._map(last, images))

    def load_file(self, path: Path) -> None:
        """Read a file of timm's weights for this architecture, fitted to its channels and size.

        Args:
            path: As timm publishes them: ``.safetensors``, or a state dict of tensors.

        Raises:
            CheckpointError: if it cannot be read or is another architecture's; nothing changes.
        """
        options = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
        try:
            weights = self._create(**options).state_dict()
        except Exception as error:  # timm passes on whatever the reader of a damaged file meets
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"cannot read weights of {self.model_name} from {path}: {reason}"
            ) from None
        self.net.load_state_dict({name: weights[name] for name in self.net.state_dict()})
        self.awaits_weights = False

    def extra_repr(self) -> str:
        return f"{self.model_name}, num_features={self.num_features}, features={self.features}"

    def _create(self, **options: Any) -> Any:
        import timm

        try:
            return timm.create_model(self.model_name, **self._options, **options)
        except TypeError as error:  # a few networks do not know one of these
            if "drop_path_rate" in str(error):
                problem = "has no stochastic depth; leave drop_path at 0"
            elif "img_size" in str(error):
                problem = "is built for one size of image only; leave img_size out"
            else:
                raise
            raise ConfigError(f"{self.model_name} {problem}") from None

    def _remove_rest(self) -> None:
        """Take away what the maps do not need: no parameter is left without a gradient."""
        missing = [stage for stage in self.features if stage not in self._index]
        if missing or list(self.features) != sorted(set(self.features)):
            has = ", ".join(f"{s} (stride {r})" for s, r in self.reduction.items()) or "none"
            raise ConfigError(
                f"features are {self.features}; expected ascending stages of {self.model_name}, "
                f"which has {has}"
            )
        net = self.net
        classifier = net.pretrained_cfg.get("classifier") or ()
        names = [classifier] if isinstance(classifier, str) else list(classifier)
        if getattr(net, "head_hidden_size", self.num_features) != self.num_features:
            names.append("conv_head")  # a convolution behind the pooling
        infos = _infos(net)
        last = len(infos) - 1
        deepest = self._index[self.features[-1]] if self.features else last
        self._is_cut = deepest < last
        # timm counts a last convolution that is wider than the last stage to the head; it is not.
        if self._is_cut or (infos and infos[-1]["num_chs"] == self.num_features):
            net.prune_intermediate_layers([deepest], prune_norm=self._is_cut, prune_head=True)
        for name in {name.partition(".")[0] for name in names} & dict(net.named_children()).keys():
            setattr(net, name, nn.Identity())
        self._index = {stage: i for stage, i in self._index.items() if i <= deepest}
        self.channels = {stage: self.channels[stage] for stage in self._index}
        self.reduction = {stage: self.reduction[stage] for stage in self._index}
        if self._is_cut:
            self.num_features = self.channels[self.features[-1]]
        else:
            self.channels |= {s: self.num_features for s, i in self._index.items() if i == last}

    def _check(self, images: Tensor) -> None:
        if self.awaits_weights:
            raise ConfigError(
                f"{self.model_name} awaits its published weights: call "
                "common.training.load_published, load a state dict, or build it with "
                "pretrained=False"
            )
        if self._size is not None and tuple(images.shape[2:]) != self._size:
            height, width = images.shape[2:]
            raise ConfigError(
                f"{self.model_name} was built for images of {self._size[0]} x {self._size[1]} and "
                f"received {height} x {width}; build it with img_size=({height}, {width})"
            )

    def _map(self, output: Any, images: Tensor) -> Tensor:
        """``(B, C, h, w)`` of what timm calls unpooled features."""
        if isinstance(output, Tensor) and output.ndim == 4:
            is_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
            return output.permute(0, 3, 1, 2) if is_last else output
        if isinstance(output, Tensor) and output.ndim == 3:
            prefix = getattr(self.net, "num_prefix_tokens", None) or 0
            patches = output[:, prefix:]
            stride = self.net.feature_info[-1]["reduction"]
            for rounded in (math.floor, math.ceil):
                height, width = (rounded(side / stride) for side in images.shape[2:])
                if height * width == patches.shape[1]:
                    return patches.transpose(1, 2).unflatten(2, (height, width))
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{self.model_name} gives {shape} for images of {tuple(images.shape[2:])}, which is no "
            "feature map; choose another network"
        )


def is_timm_name(name: str) -> bool:
    """Whether timm builds a network of this name; repositories (``hf-hub:...``) are no names."""
    import timm

    if ":" in name or not timm.is_model(name):
        return False
    base, _, tag = name.partition(".")
    return not tag or name in timm.list_pretrained(f"{base}.*")


def _check_name(name: str) -> None:
    if is_timm_name(name):
        return
    import timm

    if ":" in name:
        raise ConfigError(f"model_name is {name!a}; only timm's own names are taken")
    base = name.partition(".")[0]
    known = timm.list_pretrained(f"{base}.*") if timm.is_model(base) else timm.list_models()
    raise ConfigError(
        f"model_name is {name!a}, and timm has no such network; {did_you_mean(name, known)}"
    )


def _fixed_size(name: str, img_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """The height and width a network is built for; ``None`` if it takes any."""
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(name)
    if published is None or not published.fixed_input_size:
        return None
    if img_size is None:
        return published.input_size[1], published.input_size[2]
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return height, width


def _infos(net: nn.Module) -> list[dict[str, Any]]:
    """What timm lists of the maps inside; nothing of a network that it cannot cut there."""
    infos: Any = getattr(net, "feature_info", None)
    return infos if infos and hasattr(net, "prune_intermediate_layers") else []


def _stages(net: nn.Module) -> dict[int, int]:
    """For each stage, where timm lists it."""
    found = {}
    for index, stride in enumerate(info["reduction"] for info in _infos(net)):
        if stride >= 4 and math.log2(stride).is_integer():
            found[round(math.log2(stride)) - 1] = index
    return found


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if channels == len(values) else (sum(values) / len(values),) * channels


def _has_weights(backbone: TimmBackbone, _: Any) -> None:
    """A hook for when a state dict has been loaded."""
    backbone.awaits_weights = False
