"""Settings of all tests."""

import os

from hypothesis import HealthCheck, settings

# A test's time says how loaded the machine is; performance is measured in benchmarks/.
settings.register_profile("day0", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("day0")

# What the tests start imports day0, torch and vLLM again and again; uncompiled, each import would cost seconds more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
