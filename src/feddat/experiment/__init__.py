"""One run, a comparison of several, or a study of what they depend on: configuration in, run folder out.

Experiment.load("config.yaml", "train.lr=1e-3").run()
compare(load_config(benchmark="mini/domain"), ["feddat", "fedavg"], seeds=[0, 1, 2])
"""

from feddat.experiment.comparison import Plan, all_runs, compare, compare_each, comparison_runs
from feddat.experiment.federation import load_clients
from feddat.experiment.folder import ExperimentError
from feddat.experiment.methods import VARIANTS, known_methods
from feddat.experiment.run import Experiment, pinned
from feddat.experiment.studies import STUDIES, Study, run_study
from feddat.experiment.suites import SUITES, Suite, run_suite
from feddat.experiment.tuning import Search, read_tuning, search

__all__ = [
    "STUDIES",
    "SUITES",
    "VARIANTS",
    "Experiment",
    "ExperimentError",
    "Plan",
    "Search",
    "Study",
    "Suite",
    "all_runs",
    "compare",
    "compare_each",
    "comparison_runs",
    "known_methods",
    "load_clients",
    "pinned",
    "read_tuning",
    "run_study",
    "run_suite",
    "search",
]
