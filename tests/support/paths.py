"""The two paths of a call that can stand in a batch, and which of them a run of the tests takes."""

import os
from typing import Final

PATH: Final = os.environ.get("MANA_TEST_PATH", "both")
"""`alone`: each call by its own function; `batched`: each call in a batch; `both`: as it comes."""
assert PATH in ("alone", "batched", "both"), f"MANA_TEST_PATH={PATH}"

PATHS: Final = ["alone", "batched"] if PATH == "both" else [PATH]
"""The paths that a test takes which tries them one after the other."""

ENVIRONMENT: Final = {
    "alone": {"DATABASE_BATCH_MAX": "1"},
    # A call that comes alone is a batch, too.
    "batched": {"DATABASE_BATCH_MIN": "1"},
    "both": {},
}
"""What lets a service take a path."""
