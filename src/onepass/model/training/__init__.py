"""Training what is put on a frozen base: the loop, adapters, calibrations, merge columns."""
