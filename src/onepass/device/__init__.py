"""Running a device set on llama.cpp. Nothing here needs torch."""

from onepass.device.answer import Answer, Completion
from onepass.device.engine import Engine
from onepass.device.modes import MODES

__all__ = ["MODES", "Answer", "Completion", "Engine"]
