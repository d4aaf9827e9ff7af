"""Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets (Power et al. 2022)."""
