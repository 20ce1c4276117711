"""Adapters as plain data: LoRAs, their low-rank algebra, merging, calibrations, compositions.

Nothing here knows of text, and nothing here loads a base model.
"""
