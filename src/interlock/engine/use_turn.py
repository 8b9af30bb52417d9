"""`use` states: one call of one tool, arguments from the record. Commits nothing."""

from __future__ import annotations

from interlock.engine import server_tools
from interlock.engine.attempts import ToolEffect
from interlock.engine.desk import Desk
from interlock.engine.effects import Effects
from interlock.engine.ending import Ended
from interlock.engine.record import dump_field, fitting, set_from
from interlock.errors import EffectFailed, InterlockError
from interlock.history.events import ToolReturned
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import UseState
from interlock.policy.approvals import Approver
from interlock.policy.grants import union


async def use_turn(desk: Desk, state: UseState) -> Ended:
    """Ends `done`, or with the engine's outcome for what went wrong."""
    run = desk.run
    try:
        tool = await server_tools.pinned(desk, state.tool)
        args = tool.check({name: run.values.get(source) for name, source in state.args.items()})
        approver = None if state.approve is None else Approver(state.approve, state.within)
        effect = ToolEffect(tool, args, desk.deps, desk.world.offload, approver=approver)
        entry = await Effects(desk, 1).carry_out(effect)
        result = entry.result
        assert isinstance(result, ToolReturned)
        origin = union([run.origin_of(list(state.args.values())), result.origin])
        if state.into is None:
            return Ended("done", origin=origin)
        value = dump_field(run.machine.record, state.into, result.value)
        write = set_from(state.into, value, result.value, entry.result_seq, "value")
        writes = fitting(run.machine.record, run.values, [write])
        return Ended("done", writes, origin=origin)
    except EffectFailed as failed:
        return Ended(failed.outcome, why=str(failed))
    except InterlockError as refused:
        return Ended(EngineOutcome.ERROR, why=str(refused))
