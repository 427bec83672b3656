"""The whole configuration of one run, validated before anything starts.

A run is described by one YAML file and ``key=value`` overrides with dotted keys (``train.lr=1e-3``). Unknown keys are
refused, with the nearest known one named.
"""

from feddat.config.policy import BOUNDS, PolicyConfig
from feddat.config.reading import load_config, parse_scalar
from feddat.config.run import ConfigError, RunConfig
from feddat.config.sections import (
    SHARING,
    AdapterConfig,
    AlgorithmConfig,
    EvalConfig,
    FusionConfig,
    Schedule,
    Sharing,
    TrainConfig,
    WireConfig,
)

__all__ = [
    "BOUNDS",
    "SHARING",
    "AdapterConfig",
    "AlgorithmConfig",
    "ConfigError",
    "EvalConfig",
    "FusionConfig",
    "PolicyConfig",
    "RunConfig",
    "Schedule",
    "Sharing",
    "TrainConfig",
    "WireConfig",
    "load_config",
    "parse_scalar",
]
