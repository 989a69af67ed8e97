"""Metrics of images in any feature space, and the feature spaces of the literature."""
