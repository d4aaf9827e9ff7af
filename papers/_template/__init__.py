"""A Template (Reprise 2018, arXiv 1801.00000)."""
