"""Features of questions come from the bare language model, each as it would be alone."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_flamingo
from videoflamingo.fewshot.question_features import question_features
from videoflamingo.pipeline import VideoFlamingo

QUESTIONS = ["What is it?", "Who?", "Which way does the red car move?", "Who?", "a"]


@pytest.fixture(scope="module", params=["llama", "gpt_neox", "opt", "mpt"])
def model(request: pytest.FixtureRequest) -> VideoFlamingo:
    return VideoFlamingo(tiny_flamingo(family=request.param))


def test_a_feature_is_the_mean_of_the_language_model_s_own_last_states(model: VideoFlamingo) -> None:
    found = question_features(model, QUESTIONS, batch_size=3)
    for feature, question in zip(found, QUESTIONS, strict=True):
        ids = torch.tensor([model.model.tokenize(question)])
        with torch.no_grad():
            output = model.model.language_model(input_ids=ids, output_hidden_states=True)
        states = output.hidden_states[-1][0]
        expected = sum(state.double() for state in states) / len(states)
        np.testing.assert_allclose(feature, expected.numpy(), atol=1e-5)


def test_features_are_float32_one_row_a_question(model: VideoFlamingo) -> None:
    found = question_features(model, QUESTIONS)
    width = model.model.language_model.config.hidden_size
    assert found.dtype == np.float32 and found.shape == (5, width)
    assert (found[1] == found[3]).all()


def test_no_questions_have_no_features(model: VideoFlamingo) -> None:
    assert question_features(model, []).shape == (0, model.model.language_model.config.hidden_size)
