"""The objective, what is optimised and how fast, and what a Lightning checkpoint holds."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from tests.tiny import encode, run
from tests.training.conftest import FEATURES, steps_loader
from videoflamingo.errors import ModelError
from videoflamingo.models.checkpoint import save_checkpoint
from videoflamingo.models.flamingo import FlamingoConfig
from videoflamingo.prompt import IGNORED_LABEL
from videoflamingo.training.batch import Batch, Step
from videoflamingo.training.module import FlamingoTraining

MakeModule = Callable[..., FlamingoTraining]
MakeBatch = Callable[[int, int], Batch]


@pytest.mark.parametrize("loss_on", ["all", "answers"])
def test_the_loss_is_the_cross_entropy_of_what_follows_at_labelled_places(
    make_module: MakeModule, make_batch: MakeBatch, loss_on: Literal["all", "answers"]
) -> None:
    """By hand: each prompt alone, without padding, one label after the other."""
    module, batch = make_module(loss_on=loss_on), make_batch(0, 4)
    expected, count = 0.0, 0
    for row, segments in enumerate(batch.prompts):
        prompt = encode(module.model, segments)
        visual_tokens = module.model.resample(batch.features, batch.frame_index[row : row + 1])
        logits = run(module.model, prompt, visual_tokens).double()
        for place, label in enumerate(prompt.labels(loss_on)):
            if label != IGNORED_LABEL and place > 0:  # nothing predicts the first token
                expected -= float(logits[place - 1, label]) - math.log(float(logits[place - 1].exp().sum()))
                count += 1
    with torch.no_grad():
        total, num_labels = module.loss_sum(batch)
    assert num_labels == count
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_the_model_is_built_once(make_module: MakeModule) -> None:
    module = make_module()
    model = module.model
    module.configure_model()
    assert module.model is model


def test_before_it_is_built_the_model_cannot_be_used(config: FlamingoConfig) -> None:
    with pytest.raises(ModelError, match="built by configure_model"):
        _ = FlamingoTraining(config).model


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_language_models_kernel_is_chosen_and_changes_no_loss(
    make_module: MakeModule, make_batch: MakeBatch, kernel: Literal["eager", "sdpa"]
) -> None:
    module = make_module(language_attention=kernel)
    assert module.model.language_model.config._attn_implementation == kernel
    total, _ = module.loss_sum(make_batch(0, 4))
    assert float(total) == pytest.approx(float(make_module().loss_sum(make_batch(0, 4))[0]), rel=1e-5)


def test_every_trained_parameter_is_optimised_once_and_no_other(make_module: MakeModule) -> None:
    module = make_module()
    groups = module.configure_optimizers()[0][0].param_groups
    optimised = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in module.parameters() if parameter.requires_grad]
    assert sorted(optimised) == sorted(trained)


def test_weights_decay_except_the_resamplers(make_module: MakeModule) -> None:
    module = make_module(weight_decay=0.3)
    groups = module.configure_optimizers()[0][0].param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {decay[id(parameter)] for parameter in module.model.resampler.parameters()} == {0.0}
    assert {decay[id(parameter)] for parameter in module.model.blocks.parameters()} == {0.3}
    assert decay[id(module.model.new_tokens.weight)] == 0.3


def trainer_of(max_steps: int, *callbacks: L.Callback) -> L.Trainer:
    """On the CPU, quiet, writing nothing of its own."""
    return L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def learning_rates(module: FlamingoTraining, max_steps: int) -> list[float]:
    """Of each step, as the optimiser has it."""
    module.trainer = trainer_of(max_steps)
    (optimizer,), (schedule,) = module.configure_optimizers()
    rates = []
    for _ in range(max_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_the_learning_rate_rises_and_stays_as_in_the_paper(make_module: MakeModule) -> None:
    rates = learning_rates(make_module(learning_rate=1.0, warmup_steps=4), max_steps=7)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0])


def test_the_learning_rate_falls_to_its_final_share_where_asked(make_module: MakeModule) -> None:
    module = make_module(learning_rate=1.0, warmup_steps=2, final_learning_rate_share=0.2)
    rates = learning_rates(module, max_steps=6)
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4])  # the 0.2 is what a seventh step would have


def test_without_a_warm_up_the_first_step_has_the_whole_rate(make_module: MakeModule) -> None:
    assert learning_rates(make_module(learning_rate=1.0, warmup_steps=0), max_steps=2) == [1.0, 1.0]


# With a real Trainer.


def fit(module: FlamingoTraining, max_steps: int, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """Epochs of four steps over the same batches in the same order."""
    trainer = trainer_of(max_steps, *callbacks)
    trainer.fit(module, steps_loader(), **settings)
    return trainer


FAST = {"learning_rate": 0.01, "warmup_steps": 1}


def weights(module: FlamingoTraining) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.model.state_dict().items()}


def test_training_changes_every_trained_weight_and_no_frozen_one(make_module: MakeModule) -> None:
    module = make_module(**FAST)
    before = weights(module)
    fit(module, 2)
    after = weights(module)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, parameter in module.model.named_parameters() if parameter.requires_grad}


def test_training_lowers_the_loss(make_module: MakeModule, make_batch: MakeBatch) -> None:
    module = make_module(**FAST)
    batch = make_batch(0, 8)
    before = float(module.loss_sum(batch)[0])
    fit(module, 20)
    assert float(module.loss_sum(batch)[0]) < 0.8 * before


def test_a_lightning_checkpoint_holds_what_was_trained_and_nothing_frozen(
    make_module: MakeModule, tmp_path: Path
) -> None:
    module = make_module(**FAST)
    fit(module, 1).save_checkpoint(tmp_path / "one.ckpt")
    stored = torch.load(tmp_path / "one.ckpt", weights_only=False)["state_dict"]
    trained = {f"flamingo.{name}" for name, parameter in module.model.named_parameters() if parameter.requires_grad}
    assert stored.keys() == trained


def test_training_that_goes_on_after_an_epoch_ends_as_if_it_had_not_stopped(
    make_module: MakeModule, tmp_path: Path
) -> None:
    whole, resumed = make_module(**FAST), make_module(**FAST)
    fit(whole, 6, ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4))
    first_epoch = tmp_path / "step=4.ckpt"
    stopped = torch.load(first_epoch, weights_only=False)["state_dict"]["flamingo.resampler.latents"]
    assert not torch.equal(stopped, whole.model.resampler.latents)
    fit(resumed, 6, ckpt_path=first_epoch)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("key", "message"),
    [("flamingo.resampler.latents", r"missing \['flamingo.resampler.latents'\]"), ("more", r"unexpected \['more'\]")],
)
def test_a_checkpoint_of_another_model_is_refused(
    make_module: MakeModule, tmp_path: Path, key: str, message: str
) -> None:
    path = tmp_path / "one.ckpt"
    fit(make_module(**FAST), 1).save_checkpoint(path)
    stored = torch.load(path, weights_only=False)
    if stored["state_dict"].pop(key, None) is None:
        stored["state_dict"][key] = torch.zeros(1)
    torch.save(stored, path)
    with pytest.raises(ModelError, match=message):
        fit(make_module(**FAST), 2, ckpt_path=path)


def test_training_may_start_from_a_checkpoint_folder(
    make_module: MakeModule, tmp_path: Path, config: FlamingoConfig
) -> None:
    first = make_module()
    save_checkpoint(first.model, tmp_path, torch.float32)
    second = FlamingoTraining(config, frozen_dtype="float32", init_from=str(tmp_path))
    second.configure_model()
    stored = load_file(tmp_path / "trainable.safetensors")
    assert all(torch.equal(second.model.trainable_state()[name], value) for name, value in stored.items())


class Media(L.LightningDataModule):
    """Steps, and media to measure."""

    def sample_media(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        return ((rng.standard_normal((4, *FEATURES)) * 3 + 2).astype(np.float16) for _ in range(10))

    def train_dataloader(self) -> DataLoader[Step]:
        return steps_loader()


@pytest.mark.parametrize("standardise", [True, False])
def test_the_standardisation_is_measured_when_training_begins(
    make_module: MakeModule, config: FlamingoConfig, standardise: bool
) -> None:
    module = make_module(config=replace(config, vision=replace(config.vision, standardise=standardise)), **FAST)
    trainer_of(1).fit(module, datamodule=Media())
    mean, std = module.model.vision.feature_mean.mean(), module.model.vision.feature_std.mean()
    expected = (2.0, 3.0) if standardise else (0.0, 1.0)
    assert (float(mean), float(std)) == pytest.approx(expected, abs=0.1)
