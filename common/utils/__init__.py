"""Logging, seeds, paths, files, run records and checkpoint files: the floor all else stands on."""
