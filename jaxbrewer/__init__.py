"""Knowledge distillation for JAX."""
