"""A Template (Reprise 2018, arXiv 1801.00000): what ``tools/new_paper.py`` copies."""
