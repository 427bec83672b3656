"""``import feddat`` makes this package's tuners known to PEFT, whoever imports what first."""

import subprocess
import sys

import pytest

KNOWN = "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as m; assert {'BOTTLENECK', 'SOFT_PROMPT'} <= set(m)"


@pytest.mark.parametrize(
    "before",
    [
        # Libraries look whether there is PEFT without importing it.
        "import feddat, sys; from importlib.util import find_spec; find_spec('peft'); assert 'peft' not in sys.modules",
        "import peft, feddat",
    ],
)
def test_the_order_of_imports_does_not_matter(before):
    subprocess.run([sys.executable, "-c", f"{before}; {KNOWN}"], check=True)
