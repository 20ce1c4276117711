"""Running a device set on llama.cpp. Nothing here needs torch."""

from onepass.serve.answer import Answer, Completion, Reading
from onepass.serve.engine import Engine
from onepass.serve.modes import MODES

__all__ = ["MODES", "Answer", "Completion", "Engine", "Reading"]
