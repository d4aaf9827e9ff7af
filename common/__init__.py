"""The shared package every paper and project stands on."""
