"""Image classification: folders of photos in, measured and exported classifiers out."""
