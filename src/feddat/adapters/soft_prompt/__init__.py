"""Soft prompts at a stack of layers, also as a PEFT tuner. Importing this package registers it with PEFT."""

from feddat.adapters.peft_internals import register_tuner
from feddat.adapters.soft_prompt.config import PEFT_TYPE, SoftPromptConfig
from feddat.adapters.soft_prompt.model import SoftPromptModel

__all__ = ["PEFT_TYPE", "SoftPromptConfig", "SoftPromptModel"]

register_tuner(PEFT_TYPE, SoftPromptConfig, SoftPromptModel)
