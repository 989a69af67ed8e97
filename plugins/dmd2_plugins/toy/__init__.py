"""2-D Gaussian mixtures: a teacher that is exact for every noise schedule, so that only the distillation can be wrong."""
