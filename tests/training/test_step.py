"""One optimisation step over a mixture: which gradient the optimiser sees, and what is told about it."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.training.conftest import sample, step_of
from videoflamingo.errors import ModelError
from videoflamingo.models.flamingo import FlamingoConfig
from videoflamingo.prompt import EndOfChunk, Text
from videoflamingo.training.batch import Batch, Part, Sample, Step, collate
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.texts import PlannedText

MakeModule = Callable[..., FlamingoTraining]
MakeBatch = Callable[[int, int], Batch]


class LastGradient(L.Callback):
    """What the optimiser was given last."""

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        named = pl_module.named_parameters()
        self.gradients = {name: value.grad.clone() for name, value in named if value.grad is not None}


def take(module: FlamingoTraining, steps: Iterable[Step]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradient of the last step and what was logged of it, from a real Trainer."""
    last = LastGradient()
    steps = list(steps)
    trainer = L.Trainer(
        max_steps=len(steps), accelerator="cpu", logger=False, callbacks=[last], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(steps, batch_size=None))
    return last.gradients, {name: float(value) for name, value in trainer.callback_metrics.items()}


def gradient_of_mean(module: FlamingoTraining, batch: Batch) -> dict[str, Tensor]:
    """By autograd alone: of the mean over one batch's labels."""
    module.train()
    total, count = module.loss_sum(batch)
    named = {name: value for name, value in module.named_parameters() if value.requires_grad}
    found = torch.autograd.grad(total / count, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if one is None else one for name, one in zip(named, found, strict=True)}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-5 * float(value.abs().max()) + 1e-9
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=tolerance, msg=name)


UNCLIPPED = {"gradient_clip": None, "warmup_steps": 1}


def test_a_mixtures_gradient_is_the_weighted_sum_of_the_datasets(
    make_module: MakeModule, make_batch: MakeBatch
) -> None:
    first, second = make_batch(0, 3), make_batch(5, 4)
    separate = [gradient_of_mean(make_module(), batch) for batch in (first, second)]
    found, _ = take(make_module(**UNCLIPPED), [step_of(first, second, weights=(1.0, 0.2))])
    assert_equal(found, {name: separate[0][name] + 0.2 * separate[1][name] for name in separate[0]})


def test_one_dataset_after_the_other_sees_each_gradient_alone(make_module: MakeModule, make_batch: MakeBatch) -> None:
    first, second = make_batch(0, 3), make_batch(5, 4)
    together, _ = take(make_module(**UNCLIPPED), [step_of(first, second)])
    alone, _ = take(make_module(**UNCLIPPED), [step_of(first)])
    assert_equal(alone, gradient_of_mean(make_module(), first))
    assert not torch.allclose(alone["flamingo.resampler.latents"], together["flamingo.resampler.latents"], rtol=0.1)


def test_smaller_passes_change_no_gradient_though_their_labels_differ_in_number(make_module: MakeModule) -> None:
    samples = [sample(number) for number in range(5)]
    passes = [collate(samples[:1]), collate(samples[1:4]), collate(samples[4:])]
    whole, _ = take(make_module(**UNCLIPPED), [Step(0, [Part("a", 1.0, [collate(samples)])])])
    cut, _ = take(make_module(**UNCLIPPED), [Step(0, [Part("a", 1.0, passes)])])
    assert_equal(cut, whole)


def test_a_pass_without_texts_adds_nothing(make_module: MakeModule, make_batch: MakeBatch) -> None:
    batch = make_batch(0, 3)
    alone, _ = take(make_module(**UNCLIPPED), [step_of(batch)])
    beside, logged = take(make_module(**UNCLIPPED), [step_of(batch, collate([]))])
    assert_equal(beside, alone)
    assert logged["loss/b"] == 0.0


@pytest.mark.parametrize("settings", [{}, {"objective": "readout"}])
def test_a_step_of_nothing_gives_everything_trained_a_gradient_of_zero(
    make_module: MakeModule, settings: dict[str, str]
) -> None:
    module = make_module(**UNCLIPPED, **settings)
    found, _ = take(module, [step_of(collate([]))])
    assert found.keys() == {name for name, value in module.named_parameters() if value.requires_grad}
    assert not any(gradient.any() for gradient in found.values())


def test_text_without_media_trains_end_of_chunk_and_feed_forward_and_zero_elsewhere(make_module: MakeModule) -> None:
    plain = collate([Sample(PlannedText([Text("a plain text", is_answer=True), EndOfChunk()], []), [], "plain")])
    module = make_module(**UNCLIPPED)
    found, _ = take(module, [step_of(plain)])
    assert found.keys() == {name for name, value in module.named_parameters() if value.requires_grad}
    moved = {name for name, gradient in found.items() if gradient.any()}
    assert "flamingo.new_tokens.weight" in moved
    assert all("feed_forward" in name or "new_tokens" in name for name in moved)


def test_the_gradient_is_cut_to_its_greatest_norm(make_module: MakeModule, make_batch: MakeBatch) -> None:
    free, logged = take(make_module(**UNCLIPPED), [step_of(make_batch(0, 3))])
    cut, _ = take(make_module(gradient_clip=0.01, warmup_steps=1), [step_of(make_batch(0, 3))])
    norm = torch.stack([gradient.norm() for gradient in free.values()]).norm()
    assert logged["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert float(norm) > 0.02
    assert_equal(cut, {name: gradient * 0.01 / norm for name, gradient in free.items()})


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_no_weight(
    make_module: MakeModule, make_batch: MakeBatch
) -> None:
    module, batch = make_module(warmup_steps=1), make_batch(0, 2)
    before = {name: value.clone() for name, value in module.named_parameters()}
    broken = replace(batch, features=torch.full_like(batch.features, float("nan")))
    with pytest.raises(ModelError, match="step 7: the gradient is nan, so weights were left as they are"):
        take(module, [step_of(broken, index=7)])
    assert all(torch.equal(before[name], value) for name, value in module.named_parameters())


def test_the_warm_ups_share_is_added_to_the_gradient(make_module: MakeModule, make_batch: MakeBatch) -> None:
    batch = make_batch(0, 4)
    text = gradient_of_mean(make_module(), batch)
    said = gradient_of_mean(make_module(objective="readout"), batch)
    found, logged = take(make_module(readout_weight=0.25, **UNCLIPPED), [step_of(batch)])
    assert_equal(found, {name: value + 0.25 * said.get(name, 0) for name, value in text.items()})
    assert logged["loss"] == pytest.approx(logged["loss/a"] + 0.25 * logged["readout/a"], rel=1e-5)


def test_losses_rates_waiting_and_gates_are_told(make_module: MakeModule, make_batch: MakeBatch) -> None:
    module = make_module(**UNCLIPPED)
    first, second = make_batch(0, 3), make_batch(5, 4)
    means = [float(total) / count for total, count in map(module.loss_sum, (first, second))]
    gates = [float(block.attention_gate.tanh()) for block in module.model.blocks]
    module.learning_rate = 0.0  # gates are told after the step
    _, logged = take(module, [step_of(first, second, weights=(1.0, 0.5))])
    assert (logged["loss/a"], logged["loss/b"]) == pytest.approx(means, rel=1e-5)
    assert logged["loss"] == pytest.approx(means[0] + 0.5 * means[1], rel=1e-5)
    assert [logged[f"gate/attention/{layer}"] for layer in module.model.block_layers] == pytest.approx(gates)
    assert logged["tokens_per_second"] > 0
    assert logged["clips_per_second"] > 0
    assert logged["data_wait"] == 0.0


def test_longer_texts_are_cut_at_the_end(make_module: MakeModule, make_batch: MakeBatch) -> None:
    batch = make_batch(0, 2)
    whole, cut = make_module().encoded(batch), make_module(max_text_tokens=9).encoded(batch)
    assert cut.prompts.input_ids.shape == (2, 9)
    assert (cut.prompts.input_ids == whole.prompts.input_ids[:, :9]).all()


def test_the_tower_is_trained_where_asked_and_saved_with_the_rest(
    config: FlamingoConfig, make_module: MakeModule
) -> None:
    module = make_module(trained=["resampler", "blocks", "new_tokens", "vision"], **UNCLIPPED)
    frames = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    text = sample(0).text
    batch = collate([Sample(text, [frames.numpy()], "frames")])
    found, _ = take(module, [step_of(batch)])
    assert any(name.startswith("flamingo.vision.backbone.") and gradient.any() for name, gradient in found.items())
    assert module.config.own_tower
    assert any(name.startswith("vision.backbone.") for name in module.trainable_state())
    assert not any(name.startswith("vision.backbone.") for name in make_module().trainable_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trained": []}, "model.trained is"),
        ({"max_text_tokens": 0}, "max_text_tokens is 0; give 1 or more"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0; give a norm above 0"),
    ],
)
def test_options_out_of_range_are_refused(config: FlamingoConfig, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FlamingoTraining(config, **settings)
