"""Denoising Diffusion Probabilistic Models (Ho et al. 2020, arXiv 2006.11239)."""
