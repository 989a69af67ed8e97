"""Gaussian mixtures in the plane: a teacher without error, so that whatever goes wrong is the distillation's."""
