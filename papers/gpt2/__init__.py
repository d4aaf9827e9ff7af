"""Language Models are Unsupervised Multitask Learners (Radford et al. 2019): GPT-2."""
