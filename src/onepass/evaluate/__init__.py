"""How good outputs are: one number per example and metric, and what the numbers can tell."""
