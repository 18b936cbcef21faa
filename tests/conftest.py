"""Settings of all tests."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

# A test's time says how loaded the machine is; performance is measured in benchmarks/.
settings.register_profile("day0", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("day0")

# What the tests start imports day0, torch and vLLM again and again; uncompiled, each import would cost seconds more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def bundled_release(tmp_path_factory):
    """A folder with the accepted release m/fp8 and its bundle, which no test may change."""
    from accepted_release import make_bundled_release  # of tests/unit, and with it the project: few folders need it

    folder = tmp_path_factory.mktemp("bundled")
    make_bundled_release(folder)
    return folder


@pytest.fixture
def bundled_copy(bundled_release, tmp_path, monkeypatch):
    """A copy of it, in the working directory; returns that."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(bundled_release, tmp_path, dirs_exist_ok=True)
