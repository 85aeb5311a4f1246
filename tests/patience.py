"""How much longer than on a usual machine a test may wait: NSK8S_TEST_PATIENCE, a factor. `scripts/vm` sets it by emulation."""

import os

PATIENCE = float(os.environ.get("NSK8S_TEST_PATIENCE") or 1)
