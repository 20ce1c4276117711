"""Judging by a language model, as far as it is text: what it is asked, and what it answered."""
