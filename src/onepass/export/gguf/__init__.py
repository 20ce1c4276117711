"""Compositions for llama.cpp: a base, adapters that are shared, and a manifest of the scales."""
