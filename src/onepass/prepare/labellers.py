"""All labellers; importing this module registers them."""

from onepass.prepare import endpoint, instruct, multi_step, seq2seq
from onepass.prepare.labeller import LABELLERS

__all__ = ["LABELLERS", "endpoint", "instruct", "multi_step", "seq2seq"]
