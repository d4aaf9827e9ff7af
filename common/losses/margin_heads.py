"""``AngularMarginHead`` by the names of its papers, for configurations and for Python.

    loss:
      _target_: common.losses.ArcFace
      num_classes: 1000

Each class fixes the kind and brings its paper's margin; the rest, and all that is computed, is the
head's (``common.losses.angular``). The scale is ``auto`` by default and not the papers' 64, which
is for tens of thousands of classes.
"""

from collections.abc import Sequence

from common.losses.angular import AngularMarginHead


class ArcFace(AngularMarginHead):
    """cos(theta_y + m), m in radians (Deng et al. 2018, 1801.07698, equation 3).

    Args:
        embedding_dim: See ``AngularMarginHead``, as for all that follow.
        num_classes: K.
        margin: m; 0.5 in section 3.1.
        scale: s.
        learnable_scale: Whether s is trained.
        num_centers: Centres of each class.
        class_weights: One for each class.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float | Sequence[float] = 0.5,
        scale: float | str = "auto",
        learnable_scale: bool = False,
        num_centers: int = 1,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            kind="arcface",
            margin=margin,
            scale=scale,
            learnable_scale=learnable_scale,
            num_centers=num_centers,
            class_weights=class_weights,
        )


class SubcenterArcFace(ArcFace):
    """ArcFace to the nearest of a class's several centres (Deng et al., ECCV 2020, section 3).

    A class that holds mislabelled or unusual images gives them a centre of their own;
    ``dominant_angles`` finds them. Arguments as ``ArcFace``; ``num_centers`` is 3, as in the paper.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float | Sequence[float] = 0.5,
        scale: float | str = "auto",
        learnable_scale: bool = False,
        num_centers: int = 3,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            margin=margin,
            scale=scale,
            learnable_scale=learnable_scale,
            num_centers=num_centers,
            class_weights=class_weights,
        )


class CosFace(AngularMarginHead):
    """cos_y - m, m a cosine (Wang et al. 2018, 1801.09414, equation 4).

    Arguments as ``ArcFace``; m is 0.35, with which the paper trains.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float | Sequence[float] = 0.35,
        scale: float | str = "auto",
        learnable_scale: bool = False,
        num_centers: int = 1,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            kind="cosface",
            margin=margin,
            scale=scale,
            learnable_scale=learnable_scale,
            num_centers=num_centers,
            class_weights=class_weights,
        )


class CurricularFace(AngularMarginHead):
    """ArcFace whose hard negatives weigh more as training goes on (Huang et al. 2020, 2004.00288).

    Arguments as ``ArcFace``; m is 0.5, as in the paper.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float | Sequence[float] = 0.5,
        scale: float | str = "auto",
        learnable_scale: bool = False,
        num_centers: int = 1,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            kind="curricular",
            margin=margin,
            scale=scale,
            learnable_scale=learnable_scale,
            num_centers=num_centers,
            class_weights=class_weights,
        )
