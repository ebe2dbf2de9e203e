"""Shapes written in annotations are checked in tests, and cost nothing in production."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("IRLIGN_ALLOWED_IMPORTS", "*")

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook(["alignment"], "beartype.beartype")
# How fast an example runs says nothing of the code where other work shares the machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
