"""The examples as modules, loaded from where they lie."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOP_LOG = EXAMPLES / "data" / "shop.log"


def load(name: str) -> ModuleType:
    have = sys.modules.get(name)
    if have is not None and getattr(have, "__file__", "") == str(EXAMPLES / f"{name}.py"):
        return have
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
