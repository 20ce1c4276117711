"""onepass: several tasks at once from one small on-device language model, in one pass."""

__version__ = "0.1.0"
