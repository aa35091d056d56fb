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


def test_testing_counts_answers_that_are_right_word_for_word_over_all_batches(
    make_module: MakeModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module()
    answers = iter(["a dog", "a cat", "rain", "a red car", "a dog"])
    ask = module.predict_step
    monkeypatch.setattr(module, "predict_step", lambda *of: [{**one, "answer": next(answers)} for one in ask(*of)])
    (measured,) = trainer(tmp_path).test(module, DataLoader(Samples(), batch_size=2, collate_fn=collate), verbose=False)
    with torch.no_grad():
        sums = [module.loss_sum(collate([sample(index)])) for index in range(5)]
    expected = sum(float(total) for total, _ in sums) / sum(count for _, count in sums)
    assert measured["test_exact/0"] == pytest.approx(3 / 5)
    assert measured["test_loss/0"] == measured["test_loss"] == pytest.approx(expected, rel=1e-5)


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
        for one in sample(index).text.segments
        if isinstance(one, Text) and one.is_answer
    ]
    assert {"name", "place", "prompt", "answer", "truth"} == set(lines[0])
