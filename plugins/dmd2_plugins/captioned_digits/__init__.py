"""Stable Diffusion in small: a pipeline of a million weights that learns captioned digits in minutes on a CPU."""
