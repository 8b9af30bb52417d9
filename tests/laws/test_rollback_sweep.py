"""kill -9 at every commit and every undo of a rollback: nothing undone twice, nothing left standing, nothing lost. Real
processes, a real store file, a real outside world; see `rollback_child`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_rollback_survives_sigkill_at_every_point(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.laws.rollback_child", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-3000:]
    names, scenes = said[0]["points"], said[1:]
    assert len(scenes) == len(names) >= 14
    wrong = [
        f"died {names[scene['fatal'][0] - 1]} ({scene['fatal'][0]}): {scene}"
        for scene in scenes
        if not (scene["resumed"] and scene["holds"])
    ]
    assert wrong == [], "\n".join(wrong) + "\n" + done.stderr[-4000:]
    assert sum(scene["killed"][0] for scene in scenes) >= len(names) - 2
    assert {"before a commit", "after a commit"} <= set(names)
    assert {f"{name} {end}" for name in ("unput", "unbook") for end in ("starts", "ends")} <= set(names)
