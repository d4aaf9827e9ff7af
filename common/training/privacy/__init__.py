"""Differentially private training (DP-SGD, Abadi et al. 2016, 1607.00133) on Opacus."""
