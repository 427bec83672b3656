"""After ``import feddat``, PEFT knows this package's tuners as soon as it is imported."""

import subprocess
import sys

NAMES = ("BOTTLENECK", "SOFT_PROMPT")


def test_tuners_wait_for_peft():
    """Neither ``import feddat`` nor a check whether PEFT is installed, as libraries do it, imports PEFT or torch."""
    script = f"""
import sys
from importlib.util import find_spec
import feddat
assert find_spec("peft") is not None
assert not {{"peft", "torch"}} & set(sys.modules), "import feddat loads neither"
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
assert {{*{NAMES}}} <= set(PEFT_TYPE_TO_CONFIG_MAPPING)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
