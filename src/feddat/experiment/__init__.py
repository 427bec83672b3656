"""Single runs, comparisons of several runs, and studies: configuration in, run folder out.

Experiment.load("config.yaml", "train.lr=1e-3").run()
compare(load_config(benchmark="mini/domain"), ["feddat", "fedavg"], seeds=[0, 1, 2])
"""

from feddat.experiment.grids.comparison import Plan, all_runs, compare, compare_each, comparison_runs
from feddat.experiment.grids.newcomers import Newcomers, run_newcomers
from feddat.experiment.grids.studies import STUDIES, Study, run_study
from feddat.experiment.grids.suites import SUITES, Suite, run_suite
from feddat.experiment.grids.tuning import Search, read_tuning
from feddat.experiment.single.client_data import load_clients
from feddat.experiment.single.folder import ExperimentError
from feddat.experiment.single.methods import VARIANTS, known_methods
from feddat.experiment.single.portable import pinned
from feddat.experiment.single.run import Experiment

__all__ = [
    "STUDIES",
    "SUITES",
    "VARIANTS",
    "Experiment",
    "ExperimentError",
    "Newcomers",
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
    "run_newcomers",
    "run_study",
    "run_suite",
]
