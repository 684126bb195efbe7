"""Skill-conditioned gated self-distillation: the trainer, the skill bank and the instrument."""

__version__ = "0.1.0"
