"""kill -9 at every commit and at every start and end of an effect: nothing done twice, repeated blindly or lost.
Real processes, a real store file, a real outside world; see `crash_child`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
TWICE = 8


def test_a_run_survives_sigkill_at_every_point(tmp_path: Path, chance: Random) -> None:
    pairs = [f"{chance.randrange(1, 40)},{chance.randrange(1, 12)}" for _ in range(TWICE)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.laws.crash_child", str(tmp_path), *pairs],
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
    once = [scene for scene in scenes if len(scene["fatal"]) == 1]
    assert len(scenes) == len(names) + TWICE
    wrong = [
        f"died {' then '.join(names[at - 1] + f' ({at})' for at in scene['fatal'])}: {scene}"
        for scene in scenes
        if not (scene["resumed"] and scene["holds"])
    ]
    assert wrong == [], "\n".join(wrong) + "\n" + done.stderr[-4000:]
    # Commits share a transaction now and then, so a life may have a point or two less than the dry one.
    assert sum(scene["killed"][0] for scene in once) >= len(names) - 4
    assert {"before a commit", "after a commit", "model starts", "model ends"} <= set(names)
    assert {"before a reservation", "after a reservation"} <= set(names)
    assert {f"{name} {end}" for name in ("look", "put", "charge", "mail") for end in ("starts", "ends")} <= set(names)
