"""Traffic made from a shipped corpus by a scenario, the same bytes from the same seed."""

from tasks.traffic.simulation.draws import simulate
from tasks.traffic.simulation.scenario import Scenario, load_scenario, parse_scenario

__all__ = ["Scenario", "load_scenario", "parse_scenario", "simulate"]
