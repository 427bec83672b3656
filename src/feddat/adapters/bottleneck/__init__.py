"""The bottleneck adapter as a PEFT tuner."""
