"""Stable Diffusion: what its teachers are sampled with."""
