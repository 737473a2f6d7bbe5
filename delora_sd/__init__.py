"""The maker: adapters, data, diffusion, training and generation. It knows nothing of the judge (delora_eval)."""

__version__ = "0.1.0"
