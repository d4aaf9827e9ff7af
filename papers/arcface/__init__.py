"""ArcFace: Additive Angular Margin Loss (Deng et al. 2018, arXiv 1801.07698)."""
