"""An OpenAI-compatible server whose models are compositions, single adapters, and the base."""
