"""Training: matching, denoising, losses and what runs them."""
