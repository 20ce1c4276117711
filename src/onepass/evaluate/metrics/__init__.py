"""The metrics, one small file each; importing this package registers them all.

To add one: write a file with a function of (predictions, examples, task) and a `register` line,
and import it here.
"""

from onepass.evaluate.metrics import chrf, formality, language, rouge
from onepass.evaluate.metrics.metric import METRICS, Metric

__all__ = ["METRICS", "Metric", "chrf", "formality", "language", "rouge"]
