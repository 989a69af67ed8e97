"""Any pipeline of diffusers as something that draws, under the prompts, noise and protocols of everything else."""
