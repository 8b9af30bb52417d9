"""LangGraph on its SQLite saver: `langgraph_sqlite.py full|delta FILE RUNS TURNS`. Run with the peers' own Python.

A think node and a tool node, the conversation in its state, every step durable before the next (`durability="sync"`).
`full` keeps messages as its documentation says; `delta` in its DeltaChannel, which stores what was added. The saver
sets its file to the write-ahead log by itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from text import found, said, timed
from typing_extensions import TypedDict

KIND, FILE, RUNS, TURNS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def _added(state: Sequence[Any], writes: Sequence[Sequence[Any]]) -> list[Any]:
    return [*state, *(message for write in writes for message in write)]


class Full(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    page: int


class Delta(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(_added)]
    page: int


async def think(state: Any) -> dict[str, Any]:
    page = state["page"]
    call = {"name": "read_page", "args": {"page": page}, "id": f"c{page}"}
    return {"messages": [AIMessage(said(page), id=f"a{page}", tool_calls=[call])]}


async def read(state: Any) -> dict[str, Any]:
    page = state["page"]
    return {"messages": [ToolMessage(found(page), id=f"t{page}", tool_call_id=f"c{page}")], "page": page + 1}


def built(saver: AsyncSqliteSaver) -> Any:
    graph = StateGraph(Full if KIND == "full" else Delta)
    graph.add_node("think", think)
    graph.add_node("read", read)
    graph.add_edge(START, "think")
    graph.add_edge("think", "read")
    graph.add_conditional_edges("read", lambda s: END if s["page"] >= TURNS else "think", ["think", END])
    return graph.compile(checkpointer=saver)


async def main() -> None:
    async with AsyncSqliteSaver.from_conn_string(FILE) as saver:
        await saver.setup()
        graph = built(saver)

        async def one(number: int) -> None:
            config = {"configurable": {"thread_id": str(number)}, "recursion_limit": 10**6}
            ended = await graph.ainvoke({"messages": [], "page": 0}, config, durability="sync")
            assert ended["page"] == TURNS

        async def everything() -> None:
            await asyncio.gather(*(one(number) for number in range(RUNS)))

        await timed(RUNS * TURNS, everything())


asyncio.run(main())
