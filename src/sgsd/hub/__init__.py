"""All that leaves the machine: the model, its card, and what of the configuration others may see."""
