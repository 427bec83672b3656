"""Named federations: which clients, which data, which task."""

from feddat.benchmarks.catalog import Benchmark, BenchmarkError, list_benchmarks, load_benchmark

__all__ = ["Benchmark", "BenchmarkError", "list_benchmarks", "load_benchmark"]
