from projects.image_classification.core.architectures import Shape, build_architecture


def get_model(config, device=None, has_weights=False):
    h, w = config.preprocessing.image_size
    return build_architecture(
        config.model,
        Shape(config.data.num_classes, 1 if config.preprocessing.mode == "L" else 3, h, w),
    )
