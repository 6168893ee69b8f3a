"""A mark for tests that run code in the sandbox: skipped, with its own reason, where nothing can be isolated."""

from __future__ import annotations

import pytest

from benchmarks.prompt_sets.sandbox import SandboxError, require_sandbox

try:
    require_sandbox()
    REFUSED = ""
except SandboxError as error:
    REFUSED = str(error)
sandboxed = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)
