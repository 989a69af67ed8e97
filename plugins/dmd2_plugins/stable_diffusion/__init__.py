"""Stable Diffusion, SDXL and other pipelines of diffusers: teachers, and the schedulers they are sampled with."""
