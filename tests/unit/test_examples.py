"""The example and the code in the docs pages run."""

import re
import runpy
from pathlib import Path
from typing import Any

import fake_target as fake
import numpy as np
import pytest

import tiny_flows as flows
import tiny_policies as tiny

ROOT = Path(__file__).parents[2]


def test_the_foreign_policy_keeps_its_contract_and_its_actions(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "foreign_policy.py"), run_name="__main__")
    said = capsys.readouterr().out
    found = re.match(r"18 equal actions; forwards of the language model: (\d+) ", said)
    assert found, said
    assert 18 <= int(found[1]) < 18 * 7


def test_the_foreign_policy_is_a_page() -> None:
    lines = (ROOT / "examples" / "foreign_policy.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 60


@pytest.mark.parametrize("page", ["accelerate.md", "add-a-proposer.md"])
def test_the_code_of_a_page_runs(page: str, rng: np.random.Generator) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    observations = [seen for seen in fake.observations(2) for _ in range(3)]
    names: dict[str, Any] = {"policy": fake.FakePolicy(), "observations": observations}
    of_chunks = {"chunk_policy": flows.policy(), "observations": [tiny.observation(rng) for _ in range(3)]}
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names if "chunk_policy" not in block else names | of_chunks)
    assert names["robot"].faults == {}
    if page == "accelerate.md":
        assert sum(names["forwards"]) < 7 * len(names["forwards"])
    else:
        assert len(names["actions"]) == len(observations)
