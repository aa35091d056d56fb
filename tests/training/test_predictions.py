"""What `predict` and `test` make of a batch: greedy answers beside the truth."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.tiny import encode
from tests.training.conftest import sample
from videoflamingo.generation import generate
from videoflamingo.prompt import PromptTemplate, Text
from videoflamingo.training.batch import Batch, Sample, collate
from videoflamingo.training.callbacks import SavePredictions
from videoflamingo.training.module import FlamingoTraining

MakeModule = Callable[..., FlamingoTraining]
MakeBatch = Callable[[int, int], Batch]


class Samples(Dataset[Sample]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        return sample(index)


def trainer(folder: Path, *callbacks: L.Callback) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **quiet)


def test_each_answer_is_what_the_prompt_alone_gets(make_module: MakeModule, make_batch: MakeBatch) -> None:
    module, batch = make_module(), make_batch(0, 4)
    module.eval()
    said = module.predict_step(batch, 0)
    assert [one["truth"] for one in said] == ["a dog", "two cats", "rain", "a red car moves left"]
    assert said[0]["prompt"] == "Question: What is it? Answer:"
    assert said[1]["prompt"] == "Output:"
    for row, segments in enumerate(batch.prompts):
        asked = encode(module.model, [one for one in segments if not getattr(one, "is_answer", False)])
        visual_tokens = module.model.resample(batch.features, batch.frame_index[row : row + 1])
        (alone,) = generate(module.model, [asked], visual_tokens)
        kept = [token for token in alone.token_ids if token < module.model.end_of_chunk_id]
        assert said[row]["answer"] == PromptTemplate().trim(module.model.tokenizer.decode(kept))


def test_testing_counts_answers_that_are_right_word_for_word(
    make_module: MakeModule, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = make_module(), make_batch(0, 4)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    answers = [{"answer": "a dog", "truth": "a dog"}, *({"answer": "a", "truth": "a dog"} for _ in range(3))]
    monkeypatch.setattr(module, "predict_step", lambda *_: answers)
    with torch.no_grad():
        total, count = module.loss_sum(batch)
        module.test_step(batch, 0)
    assert logged == {"test_loss/random": pytest.approx(float(total) / count), "test_exact/random": 0.25}


def test_predictions_are_saved_a_line_each_and_replace_older_ones(make_module: MakeModule, tmp_path: Path) -> None:
    path = tmp_path / "said" / "predictions.jsonl"
    path.parent.mkdir()
    path.write_text("from an earlier run\n", "utf-8")
    loader = DataLoader(Samples(), batch_size=2, collate_fn=collate)
    trainer(tmp_path, SavePredictions(str(path))).predict(make_module(), loader)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["truth"] for line in lines] == [
        one.text.strip()
        for index in range(5)
        for one in sample(index).segments
        if isinstance(one, Text) and one.is_answer
    ]
    assert {"name", "prompt", "answer", "truth"} == set(lines[0])
