"""DBOS Transact on SQLite: `dbos_sqlite.py as-it-comes|wal FILE RUNS TURNS`. Run with the peers' own Python.

One step per model call and one per tool call; the conversation lives in the workflow's memory.

DBOS documents no setting for SQLite, and its pool and threads were best as they come. `wal` is our addition: DBOS
leaves a file in the journal mode that it finds, and is faster in this one, at the same safety.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys

from dbos import DBOS
from text import found, said, timed

MODE, FILE, RUNS, TURNS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


@DBOS.step()
async def model(page: int) -> dict[str, str]:
    return {"role": "assistant", "content": said(page)}


@DBOS.step()
async def read_page(page: int) -> dict[str, str]:
    return {"role": "tool", "content": found(page)}


@DBOS.workflow()
async def agent(pages: int) -> int:
    messages = []
    for page in range(pages):
        messages += [await model(page), await read_page(page)]
    return len(messages)


async def everything() -> None:
    handles = [await DBOS.start_workflow_async(agent, TURNS) for _ in range(RUNS)]
    sizes = await asyncio.gather(*(handle.get_result(polling_interval_sec=0.05) for handle in handles))
    assert sizes == [2 * TURNS] * RUNS


if MODE == "wal":
    with contextlib.closing(sqlite3.connect(FILE)) as db:
        db.execute("PRAGMA journal_mode=WAL")
DBOS(
    config={
        "name": "bench",
        "system_database_url": f"sqlite:///{FILE}",
        "log_level": "ERROR",
        "application_version": "v1",
        "executor_id": "local",
    }
)
DBOS.launch()
asyncio.run(timed(RUNS * TURNS, everything()))
DBOS.destroy()
