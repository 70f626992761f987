"""What is kept of a run: whole or not at all, and of one run only."""

import copy
import json

import pytest
import torch
from torch import nn

from napari_unet.core.errors import TrainingError
from napari_unet.core.training import run_folder
from napari_unet.core.training.optimizing import Average
from napari_unet.core.training.progress import TrainProgress
from napari_unet.core.training.run_folder import (
    Log,
    State,
    checked_folder,
    load_state,
    save_state,
)

CPU = torch.device("cpu")


def state(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = Average(network, 0.9)
    return State(
        network=network, average=average, optimizer=torch.optim.Adam(network.parameters()),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )  # fmt: skip


def stepped(made):
    """The same after a step."""
    made.network(torch.randn(4, 2)).pow(2).sum().backward()
    made.optimizer.step()
    made.average.update(1)
    made.step, made.seconds, made.n_worse = 7, 1.5, 2
    made.best, made.best_scores, made.best_step = (0.5, 0.25), {"f1": 0.5, "iou": 0.25}, 6
    made.best_weights = copy.deepcopy(made.average.network.state_dict())
    return made


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_state_comes_back_as_it_was(tmp_path):
    before = stepped(state())
    save_state(tmp_path, before)
    after = state(1)
    assert load_state(tmp_path, after, CPU)
    for part in ("network", "optimizer"):
        assert same(getattr(before, part).state_dict(), getattr(after, part).state_dict())
    assert same(before.average.network.state_dict(), after.average.network.state_dict())
    for name in ("step", "seconds", "best", "best_scores", "best_step", "n_worse", "best_weights"):
        assert same(getattr(before, name), getattr(after, name)), name


def test_without_a_state_a_run_begins(tmp_path):
    assert not load_state(tmp_path, state(), CPU)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_state_is_told(tmp_path, content):
    save_state(tmp_path, stepped(state()))
    path = tmp_path / "state"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(TrainingError, match="is damaged or from another version"):
        load_state(tmp_path, state(), CPU)


def test_a_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save_state(tmp_path, stepped(state()))
    before = (tmp_path / "state").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "write_whole", fail)
    with pytest.raises(TrainingError, match="No space left on device"):
        save_state(tmp_path, stepped(state(2)))
    assert (tmp_path / "state").read_bytes() == before


def test_a_folder_is_of_one_run(tmp_path):
    what = {"steps": 5, "augmentation": {"scale": 1.5}, "images": "3"}
    checked_folder(tmp_path / "new" / "run", what)
    checked_folder(tmp_path / "new" / "run", dict(what))
    assert json.loads((tmp_path / "new" / "run" / "settings.json").read_text()) == what
    for name, value in (("steps", 6), ("augmentation", {"scale": 2}), ("images", "4")):
        with pytest.raises(TrainingError, match=f"a run with {name} "):
            checked_folder(tmp_path / "new" / "run", {**what, name: value})
    (tmp_path / "new" / "run" / "settings.json").write_text("{")
    with pytest.raises(TrainingError, match="cannot be used for a run"):
        checked_folder(tmp_path / "new" / "run", what)


def test_the_log_goes_on_after_the_state_and_drops_what_is_done_again(tmp_path):
    log = Log(tmp_path, 0)
    for step in range(1, 6):
        log.write(TrainProgress(done=step, total=9, loss=step / 8, learning_rate=0.5), step)
    log.close()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,0.1")  # killed while it wrote
    log = Log(tmp_path, 3)
    measured = TrainProgress(done=4, total=9, loss=9.0, score=0.5, scores={"f1": 0.5, "iou": 0.25})
    log.write(measured, 4.25)
    log.close()
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,loss,learning_rate,seconds,score,iou,f1",
        "1,0.125,0.5,1.00,,,",
        "2,0.25,0.5,2.00,,,",
        "3,0.375,0.5,3.00,,,",
        "4,9,0,4.25,0.5,0.25,0.5",
    ]


def test_no_folder_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Log(None, 0)
    log.write(TrainProgress(done=1), 0.0)
    log.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    log = Log(tmp_path, 0)
    log.write(TrainProgress(done=1, loss=0.5, score=0.25, scores={"iou": 0.75}), 1.0)
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]}
    assert values == {"loss": 0.5, "score": 0.25, "iou": 0.75, "learning_rate": 0.0}


def test_without_the_extra_there_is_the_csv_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "find_spec", lambda name: None)
    log = Log(tmp_path, 0)
    log.write(TrainProgress(done=1, loss=0.5), 1.0)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
