"""The model side: checkpoints, prompts, coefficient tables, noise, the guided denoiser."""
