"""The whole configuration of one run, validated before anything starts.

One YAML file and ``key=value`` overrides with dotted keys (``train.lr=1e-3``) describe a run. An unknown key raises an
error that suggests a similar key, if there is one.
"""

from feddat.config.errors import ConfigError
from feddat.config.policy import BOUNDS, PolicyConfig
from feddat.config.reading import load_config, parse_scalar, presets
from feddat.config.run import RunConfig
from feddat.config.sections import (
    SHARING,
    AdapterConfig,
    AlgorithmConfig,
    EvalConfig,
    FusionConfig,
    Schedule,
    SecureAggregationConfig,
    ServerConfig,
    Sharing,
    TrainConfig,
    WireConfig,
    shares_less,
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
    "SecureAggregationConfig",
    "ServerConfig",
    "Sharing",
    "TrainConfig",
    "WireConfig",
    "load_config",
    "parse_scalar",
    "presets",
    "shares_less",
]
