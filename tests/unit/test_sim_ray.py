"""The Ray pool: started locally where Ray is installed, and one line that says how to install it where it is not."""

import os
import re
import sys
from pathlib import Path

import pytest
import toy_world
from toy_world import config

from heisd.bench.evaluate import evaluate
from heisd.bench.results import RunDirectory
from heisd.errors import BadInput, HeisdError, MissingExtra, WorkerFailed
from heisd.extras import install_command
from heisd.sim.ray_pool import import_ray, run_ray

HERE = Path(__file__).parent


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=re.escape(install_command("ray"))):
        import_ray()
    with pytest.raises(MissingExtra):
        run_ray(abs, [1], 1)
    with pytest.raises(BadInput, match="at least 1"):
        run_ray(abs, [1], 0)


@pytest.fixture
def _ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason='needs pip install "heisd[ray]"')
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)  # actors import the toy world by name


pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def group_of(item: int) -> int:
    return item % 2


def pid_of(item: int) -> tuple[int, int]:
    return item, os.getpid()


def failing(item: int) -> int:
    if item == 2:
        raise BadInput("two is too many")
    raise ZeroDivisionError(str(item))


def dying_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(3)
    return marker


@pytest.mark.usefixtures("_ray")
def test_every_item_is_done_once_by_another_process() -> None:
    done = list(run_ray(pid_of, list(range(8)), 2, group_key=group_of))
    assert sorted(item for item, _ in done) == list(range(8))
    assert all(item == answered for item, (answered, _) in done)
    pids = {pid for _, (_, pid) in done}
    assert os.getpid() not in pids
    assert len(pids) <= 2


@pytest.mark.usefixtures("_ray")
def test_failures_are_told_as_by_the_other_pool(tmp_path: Path) -> None:
    with pytest.raises(HeisdError, match="two is too many"):
        list(run_ray(failing, [2], 1))
    with pytest.raises(WorkerFailed, match="ZeroDivisionError: 3"):
        list(run_ray(failing, [3], 1))
    marker = str(tmp_path / "died")
    assert list(run_ray(dying_once, [marker], 1)) == [(marker, marker)]


@pytest.mark.usefixtures("_ray")
def test_an_evaluation_on_ray_is_the_serial_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    serial = evaluate(config(), tmp_path / "serial", toy_world.setting())
    on_ray = evaluate(config(workers=2, ray="local"), tmp_path / "ray", toy_world.setting())
    assert on_ray["per_task"] == serial["per_task"]
    assert on_ray["config_hash"] == serial["config_hash"]  # the manner, not the matter
    assert len(RunDirectory(tmp_path / "ray").records()) == 4
