"""Image classification: eight ``ml-*`` commands for any folder of photos, on the shared engine."""
