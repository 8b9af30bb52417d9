"""A reader: a model answers a question from files, which a server of the Model Context Protocol reads for it.

    interlock check examples/reader.py:reader --connect
    interlock run examples/reader.py:reader --input '{"question": "Which services does the shop have?"}'

`npx` (Node.js) fetches the server when it is first needed. It is given one folder and reads nothing else; the model is
granted three of its tools, all of them declared to read, and may not use those that write. What the server says of a
tool is pinned when a run first uses it: a server that says something else later is refused, and the run ends in
`lost`. What it reads is untrusted: whoever wrote the files may have written them for the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from interlock import Limits, Machine, ask, final, mcp_server, model_state

FOLDER = Path(__file__).parent / "data"
SERVER = "@modelcontextprotocol/server-filesystem@2026.8.31"


class Question(BaseModel):
    question: str
    answer: str = ""
    files: list[str] = []


def reader_of(command: Sequence[str]) -> Machine[Question, None]:
    """The machine, with the command that starts its server."""
    files = mcp_server("files", command=command)
    look = model_state(
        "Answer from the files you are allowed to read, and name those you used. Question: {question}",
        model="openai:gpt-5-mini",
        tools=[
            files.tool("list_allowed_directories", does="read"),
            files.tool("list_directory", does="read"),
            files.tool("read_text_file", does="read", within=10),
        ],
        writes={"found": ["answer", "files"], "nothing": []},
        within=60,
    )
    person = ask("Nothing in the files answers: {question}", of="support", writes={"answered": ["answer"]})
    return Machine(
        "reader",
        Question,
        limits=Limits(turns=12, usd=0.50),
        table={
            "look": look.then({"found": "closed", "nothing": "person", "denied": "lost", "unavailable": "person"}),
            "person": person.then({"answered": "closed", "timeout": "lost"}),
            "closed": final("completed"),
            "lost": final("failed"),
        },
    )


reader = reader_of(["npx", "-y", SERVER, str(FOLDER)])
