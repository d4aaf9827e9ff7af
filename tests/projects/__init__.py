"""Tests of the projects, which mirror ``projects/``."""
