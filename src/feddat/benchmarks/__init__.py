"""Named federations, each with its clients, their data and their tasks."""

from feddat.benchmarks.catalog import (
    Benchmark,
    BenchmarkError,
    about_benchmark,
    is_generated,
    list_benchmarks,
    load_benchmark,
)

__all__ = ["Benchmark", "BenchmarkError", "about_benchmark", "is_generated", "list_benchmarks", "load_benchmark"]
