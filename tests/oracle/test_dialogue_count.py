"""How many dialogues there are with how many configurations; ``pytest -rP`` shows the table."""

from __future__ import annotations

import importlib
from pathlib import Path

from oracle.dialogue import Config, Dialogue


def test_there_are_enough() -> None:
    dialogues, configurations = 0, 0
    for path in sorted(Path(__file__).parent.glob("test_dialogue_*.py")):
        cases = getattr(importlib.import_module(f"oracle.{path.stem}"), "CASES", None)
        if not isinstance(cases, dict):
            continue  # compared in another way
        dialogues_of: dict[Config, list[Dialogue]] = cases
        said = sum(map(len, dialogues_of.values()))
        # a configuration is a main.cf with the -o of one service
        services = {(id(config), one.service) for config, each in dialogues_of.items() for one in each}
        print(f"{path.stem:32} {said:4} dialogues {len(services):4} configurations")
        dialogues += said
        configurations += len(services)
    print(f"{'':32} {dialogues:4} {'':9} {configurations:4}")
    assert dialogues >= 300
    assert configurations >= 60
