"""An agent that finds no driver, a simulation that cannot be or a broken simulator: it keeps running, names
the remedy, and works once the trouble is gone.
"""

from __future__ import annotations

import signal

import pytest
from integration.agent_process import AgentProcess
from tessera.gpu.simulator.faults import Fault

pytestmark = pytest.mark.integration


async def test_a_node_without_a_driver_reports_it_and_keeps_running(agent: AgentProcess) -> None:
    agent.flags = ()
    await agent.start()
    condition = await agent.condition("DriverMissing")
    assert condition["status"] == "False"
    assert "install the NVIDIA driver" in condition["message"]
    assert "Traceback" not in agent.log()


@pytest.mark.parametrize(
    ("flag", "reason", "remedy"),
    [
        ("--simulate=Z9", "NVMLError", "nearest: "),
        ("--simulate-count=0", "NoGPUs", "--simulate-count 1 or more"),
    ],
)
async def test_a_simulation_that_cannot_be_is_reported_and_the_agent_keeps_running(
    agent: AgentProcess, flag: str, reason: str, remedy: str
) -> None:
    agent.flags = ("--simulate=H100-80GB", flag)
    await agent.start()
    condition = await agent.condition(reason)
    assert condition["status"] == "False"
    assert remedy in condition["message"]
    assert 'tessera_build_info{process="agent"' in await agent.metrics()
    assert "Traceback" not in agent.log()


async def test_a_damaged_simulator_is_named_and_healed_when_its_file_is_deleted(agent: AgentProcess) -> None:
    await agent.start()
    await agent.condition("Published")
    state = agent.directory / "state/simulator/gpus.json"
    state.write_text("{")
    await agent.end(signal.SIGKILL)
    await agent.start()
    condition = await agent.condition("NVMLError")
    assert "gpus.json is not JSON" in condition["message"]
    state.unlink()
    await agent.register()
    await agent.condition("Published")
    assert "Traceback" not in agent.log()


async def test_nvml_errors_at_start_are_reported_and_healed(agent: AgentProcess) -> None:
    (agent.directory / "state/simulator").mkdir(parents=True)
    agent.faults.set([Fault("nvmlInitWithFlags", code=18, times=0)])
    await agent.start()
    condition = await agent.condition("NVMLError")
    assert "reboot the node after the driver update" in condition["message"]
    agent.faults.set([])
    await agent.register()
    await agent.condition("Published")
    assert "Traceback" not in agent.log()
