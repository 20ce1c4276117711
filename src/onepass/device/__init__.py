"""Running a device set on llama.cpp. Nothing here needs torch."""

from onepass.device.engine import Answer, Completion, Engine
from onepass.device.modes import MODES

__all__ = ["MODES", "Answer", "Completion", "Engine"]
