import pytest

from feddat.pretrain import train


@pytest.fixture(autouse=True, scope="package")
def quick_measurement():
    """Measure finished models on fewer scenes; tests of the bundled models cover the measurement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "FINAL_SCENES", 256)
        yield
