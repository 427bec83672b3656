"""The bottleneck adapter as a PEFT tuner. Importing this package registers it with PEFT."""

from feddat.adapters.bottleneck.config import PEFT_TYPE, BottleneckConfig
from feddat.adapters.bottleneck.layer import BottleneckLayer
from feddat.adapters.bottleneck.model import BottleneckModel
from feddat.adapters.peft_internals import register_tuner

__all__ = ["PEFT_TYPE", "BottleneckConfig", "BottleneckLayer", "BottleneckModel"]

register_tuner(PEFT_TYPE, BottleneckConfig, BottleneckModel)
