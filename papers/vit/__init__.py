"""An Image is Worth 16x16 Words (Dosovitskiy et al. 2020, arXiv 2010.11929)."""
