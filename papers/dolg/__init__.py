"""DOLG: retrieval with orthogonal fusion (Yang et al. 2021, arXiv 2108.02927)."""
