"""Auto-Encoding Variational Bayes (Kingma & Welling 2013, arXiv 1312.6114)."""
