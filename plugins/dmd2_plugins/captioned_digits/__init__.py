"""A Stable Diffusion pipeline of one million weights, which learns captioned digits in minutes on a CPU."""
