"""The page of answers, written by a real Trainer at each validation."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from tests.training.shown import WORDS, Videos, fit, mixture, trainer
from videoflamingo.errors import UsageError
from videoflamingo.prompt import Medium, Text
from videoflamingo.training.batch import Sample, collate
from videoflamingo.training.mixture import Mixture
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.predictions_page import PredictionsPage, markdown_table
from videoflamingo.training.shown_texts import read_medium
from videoflamingo.training.texts import Draw, PlannedText, Split

MakeModule = Callable[..., FlamingoTraining]
FAST = {"learning_rate": 0.01, "warmup_steps": 1}


@pytest.fixture
def texts(tmp_path: Path) -> Videos:
    return Videos(tmp_path / "captions")


@pytest.fixture
def data(texts: Videos, tmp_path: Path) -> Mixture:
    return mixture({"captions": texts, "more": Videos(tmp_path / "more")})


def answers_in(folder: Path, name: str = "captions") -> dict[int, list[str]]:
    """Step -> answers of a dataset."""
    rows = map(json.loads, (folder / "predictions.jsonl").read_text("utf-8").splitlines())
    answers: dict[int, list[str]] = {}
    for row in rows:
        if row["kind"] == "answer" and row["name"] == name:
            answers.setdefault(row["step"], []).append(row["answer"])
    return answers


def said(module: FlamingoTraining, texts: Videos, count: int) -> list[str]:
    """What the model answers to the first texts, asked one by one."""
    module.eval()
    planned = [texts.plan("validate", index, Draw(position=index)) for index in range(count)]
    with torch.inference_mode():
        return [
            module.predict_step(collate([Sample(text, [read_medium(text.media[0]).frames])]), 0)[0]["answer"]
            for text in planned
        ]


def test_the_model_is_asked_the_first_texts_at_every_validation(
    make_module: MakeModule, texts: Videos, data: Mixture, tmp_path: Path
) -> None:
    module = make_module(**FAST)
    before = said(module, texts, 3)
    module.train()
    fit(module, data, tmp_path, PredictionsPage(str(tmp_path / "run"), num_samples=3))
    answers = answers_in(tmp_path / "run")
    assert list(answers) == [0, 2, 4]
    assert answers[0] == before
    assert answers[4] == said(module, texts, 3)
    assert answers[0] != answers[4]


def test_the_page_shows_every_dataset_with_frames_truths_and_losses(
    make_module: MakeModule, data: Mixture, tmp_path: Path
) -> None:
    own = fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(tmp_path / "run"), num_samples=2))
    page = (tmp_path / "run/predictions.html").read_text("utf-8")
    assert "<title>Answers while training, step 4</title>" in page
    assert page.count("data:image/jpeg;base64,") == 2 * 2 * 3
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == ["0.20 s", "0.60 s", "1.00 s"] * 4
    assert re.findall(r"<th>truth</th><td>(.*?)</td>", page) == [*WORDS[:2], *WORDS[:2]]
    assert f"more</b>: validation loss {float(own.callback_metrics['val_loss/more']):.3f}" in page
    assert not list((tmp_path / "run").glob("*.part"))


def test_asking_changes_nothing_that_is_trained(make_module: MakeModule, data: Mixture, tmp_path: Path) -> None:
    asked, unasked = make_module(**FAST), make_module(**FAST)
    fit(asked, data, tmp_path, PredictionsPage(str(tmp_path / "run")))
    fit(unasked, data, tmp_path)
    for name, value in unasked.model.trainable_state().items():
        assert torch.equal(asked.model.trainable_state()[name], value), name
    assert asked.training == unasked.training


def test_the_model_is_asked_at_every_other_validation_where_wanted(
    make_module: MakeModule, data: Mixture, tmp_path: Path
) -> None:
    page = PredictionsPage(str(tmp_path / "run"), every_num_validations=2)
    fit(make_module(**FAST), data, tmp_path, page, val_check_interval=1)
    assert list(answers_in(tmp_path / "run")) == [0, 1, 3]


def test_a_resumed_run_shows_earlier_answers_and_replaces_later_ones(
    make_module: MakeModule, data: Mixture, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3)
    fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(run)), keep, enable_checkpointing=True)
    rows = (run / "predictions.jsonl").read_text("utf-8").replace('"step": 4', '"step": 4, "old": 1')
    (run / "predictions.jsonl").write_text(rows, "utf-8")
    fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(run)), ckpt=tmp_path / "step=3.ckpt", max_steps=6)
    assert list(answers_in(run)) == [0, 2, 4, 6]
    assert '"old"' not in (run / "predictions.jsonl").read_text("utf-8")
    assert "before training" in (run / "predictions.html").read_text("utf-8")


def test_a_video_that_is_gone_is_said_and_training_goes_on(
    make_module: MakeModule, texts: Videos, data: Mixture, tmp_path: Path
) -> None:
    """It was read for the batch, and is gone before the page is made."""

    class Gone(PredictionsPage):
        def on_validation_batch_end(self, *arguments: object, **named: object) -> None:
            texts.files[0].unlink(missing_ok=True)
            super().on_validation_batch_end(*arguments, **named)

    gone = Gone(str(tmp_path / "run"), num_samples=1)
    fit(make_module(**FAST), data, tmp_path, gone, max_steps=1, val_check_interval=1)
    page = (tmp_path / "run/predictions.html").read_text("utf-8")
    assert "the file cannot be read any more" in page and "captions/0.mp4" in page


class Pages(Videos):
    """Texts that answer nothing."""

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        text = super().plan(split, index, draw)
        return PlannedText([Medium(), Text(f"<p>{self.words[index]}")], text.media, place=text.place)


def test_texts_that_answer_nothing_are_shown_and_not_asked(make_module: MakeModule, tmp_path: Path) -> None:
    data = mixture({"captions": Videos(tmp_path / "captions"), "pages": Pages(tmp_path / "pages")})
    fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(tmp_path / "run"), num_samples=1))
    assert answers_in(tmp_path / "run", "pages") == {0: [None], 2: [None], 4: [None]}
    page = (tmp_path / "run/predictions.html").read_text("utf-8")
    assert '<p class="prompt">&lt;p&gt;a dog</p>' in page and "not asked" in page


def test_validation_by_itself_leaves_the_page_of_the_run_alone(
    make_module: MakeModule, data: Mixture, tmp_path: Path
) -> None:
    own = trainer(tmp_path, PredictionsPage(str(tmp_path / "run")))
    own.validate(make_module(), datamodule=data, verbose=False)
    assert not (tmp_path / "run").exists()


def test_other_loggers_are_left_alone(make_module: MakeModule, data: Mixture, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(tmp_path / "run")), logger=logger)
    assert (tmp_path / "run/predictions.html").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard: pip install tensorboard"
)
def test_tensorboard_gets_the_answers_as_text(make_module: MakeModule, data: Mixture, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "logs")
    fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(tmp_path / "run"), num_samples=2), logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    told = events.Tensors("answers/captions/text_summary")
    assert [event.step for event in told] == [0, 2, 4]
    lines = told[-1].tensor_proto.string_val[0].decode().splitlines()
    assert lines[0] == "| prompt | answer | truth |"
    assert [line.rpartition(" | ")[2] for line in lines[2:]] == ["a dog |", "two cats |"]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs pip install wandb")
def test_weights_and_biases_get_page_and_tables(
    make_module: MakeModule, data: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: wandb writes what it would send."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    fit(make_module(**FAST), data, tmp_path, PredictionsPage(str(tmp_path / "run"), num_samples=2), logger=logger)
    logger.experiment.finish()
    tables = [json.loads(file.read_text("utf-8")) for file in tmp_path.rglob("captions_*.table.json")]
    assert len(tables) == 3  # before training, and after steps 2 and 4
    assert all(table["columns"] == ["prompt", "answer", "truth"] and len(table["data"]) == 2 for table in tables)
    pages = [file.read_text("utf-8") for file in tmp_path.rglob("media/**/*.html")]
    assert sum("<title>Answers while training, step 4</title>" in page for page in pages) == 1


def test_texts_are_no_markdown() -> None:
    row = {"prompt": "a|b\n# c", "answer": "<b>*d*</b>", "truth": None}
    assert markdown_table([row]).splitlines()[-1] == r"| a\|b \# c | \<b\>\*d\*\<\/b\> |  |"


@pytest.mark.parametrize("option", ["num_samples", "every_num_validations"])
def test_numbers_below_one_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=f"PredictionsPage.{option} is 0; give 1 or more"):
        PredictionsPage("folder", **{option: 0})
