"""Programs that tests start find the helpers in ``tests/support`` as the tests themselves do."""

import os
from pathlib import Path

HERE = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
