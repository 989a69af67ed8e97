"""The mathematics of distribution matching distillation, as pure tensor functions. Imports torch alone."""
