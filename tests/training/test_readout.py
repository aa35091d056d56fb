"""The warm-up: which visual token must name which word, and what that trains."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import TINY_CONFIG
from videoflamingo.models.cross_attention import CrossAttentionConfig, GatedCrossAttentionBlock
from videoflamingo.prompt import Text
from videoflamingo.training.batch import Batch
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.objective import encode_batch, tokens_for_text
from videoflamingo.training.readout import readout_loss

MakeModule = Callable[..., FlamingoTraining]
MakeBatch = Callable[[int, int], Batch]


def block_writing(scale: float) -> GatedCrossAttentionBlock:
    """A block of width 2 that writes `scale` times the visual token it reads."""
    config = CrossAttentionConfig(num_heads=1, dim_head=2, norm_media=False)
    block = GatedCrossAttentionBlock(2, 2, config)
    with torch.no_grad():
        block.to_values.weight.copy_(torch.eye(2))
        block.to_output.weight.copy_(scale * torch.eye(2))
    return block


def surprise(logits: list[float], right: int) -> float:
    return math.log(sum(map(math.exp, logits))) - logits[right]


def test_visual_token_i_names_token_i_among_the_batchs_tokens() -> None:
    """Two texts of tokens 3, 5 and 5, 9; every number can be followed by hand."""
    embedding = nn.Embedding(10, 2)
    with torch.no_grad():
        embedding.weight.zero_()
        embedding.weight[3] = torch.tensor([2.0, 0.0])  # their lengths do not count: (1, 0), (0, 1), (-1, 0)
        embedding.weight[5] = torch.tensor([0.0, 0.5])
        embedding.weight[9] = torch.tensor([-3.0, 0.0])
    visual_tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [5.0, 0.0]]])
    blocks = [block_writing(1.0), block_writing(0.5)]
    total, count = readout_loss(visual_tokens, [[[3, 5]], [[5, 9]]], blocks, embedding)
    by_hand = [
        surprise([s, 0, -s], 0) + surprise([0, 2 * s, 0], 1) + surprise([0, 0, 0], 1) + surprise([5 * s, 0, -5 * s], 2)
        for s in (1.0, 0.5)
    ]
    assert count == 4
    assert float(total) == pytest.approx(sum(by_hand) / 2, rel=1e-6)


def test_each_text_is_said_by_its_part_of_the_visual_tokens_and_cut_to_it() -> None:
    embedding, visual_tokens = nn.Embedding(10, 2), torch.randn(2, 5, 2)
    parts = [[[1, 2, 3], [], [4]], [[5, 6, 7, 8, 9, 1]]]  # parts of 1, 2 and 2 tokens, and one of 5
    said = {(0, 0): 1, (0, 3): 4, (1, 0): 5, (1, 1): 6, (1, 2): 7, (1, 3): 8, (1, 4): 9}
    candidates = sorted(set(said.values()))
    words = nn.functional.normalize(embedding(torch.tensor(candidates)), dim=-1)
    expected = sum(
        surprise((visual_tokens[place] @ words.T).tolist(), candidates.index(token)) for place, token in said.items()
    )
    total, count = readout_loss(visual_tokens, parts, [block_writing(1.0)], embedding)
    assert count == len(said)
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_without_texts_of_its_own_a_medium_says_the_first_answer(
    make_module: MakeModule, make_batch: MakeBatch
) -> None:
    module, batch = make_module(objective="readout"), make_batch(0, 3)
    answers = [next(one.text for one in prompt if isinstance(one, Text) and one.is_answer) for prompt in batch.prompts]
    named = replace(
        batch, texts=[replace(text, readouts=((said,),)) for text, said in zip(batch.texts, answers, strict=True)]
    )
    assert torch.equal(module.loss_sum(batch)[0], module.loss_sum(named)[0])
    other = replace(
        batch, texts=[replace(text, readouts=(("", said),)) for text, said in zip(batch.texts, answers, strict=True)]
    )
    assert not torch.equal(module.loss_sum(batch)[0], module.loss_sum(other)[0])


def test_what_is_written_is_what_attention_to_that_token_alone_adds(make_module: MakeModule) -> None:
    block: GatedCrossAttentionBlock = make_module().model.blocks[0]
    visual_tokens = torch.randn(1, 1, 1, block.to_keys.in_features)  # one medium of one visual token
    text = torch.randn(1, 1, block.to_query.in_features)

    def after_attention(media: tuple[Tensor, Tensor] | None) -> Tensor:
        from videoflamingo.models.attention import media_runs

        runs = None if media is None else media_runs([[1]], 1, text.device)
        with torch.no_grad():
            block.feed_forward_gate.zero_()
            return block(text, media, runs)

    added = after_attention(block.keys_values(visual_tokens)) - after_attention(None)
    torch.testing.assert_close(
        added, block.attention_gate.tanh() * block.written(visual_tokens)[0], atol=1e-6, rtol=1e-5
    )


def test_the_warm_up_trains_the_resampler_and_what_blocks_write_and_nothing_else(
    make_module: MakeModule, make_batch: MakeBatch
) -> None:
    module = make_module(objective="readout")
    total, count = module.loss_sum(make_batch(0, 4))
    (total / count).backward()
    trained = {name for name, value in module.model.named_parameters() if value.grad is not None}
    written = ("norm_media", "to_values", "to_output")
    expected = {
        name
        for name, _ in module.model.named_parameters()
        if name.startswith("resampler.") or (name.startswith("blocks.") and name.split(".")[2] in written)
    }
    assert trained == expected
    optimizer = module.configure_optimizers()[0][0]
    optimised = {id(value) for group in optimizer.param_groups for value in group["params"]}
    assert optimised == {id(value) for value in module.parameters() if value.requires_grad}


def test_the_warm_up_runs_no_language_model(make_module: MakeModule, make_batch: MakeBatch) -> None:
    module = make_module(objective="readout")
    module.model.language_model.base_model.register_forward_pre_hook(lambda *_: pytest.fail("the language model ran"))
    module.loss_sum(make_batch(0, 2))


def test_texts_told_by_pooled_tokens_alone_see_the_latents_of_other_media(
    make_module: MakeModule, make_batch: MakeBatch
) -> None:
    config = replace(make_module().config, resampler=replace(TINY_CONFIG.resampler, pooled_side=2))
    module, latents = make_module(config=config), config.resampler.num_latents
    for size in (1, 4):
        batch = make_batch(0, size)
        batch = replace(batch, texts=[replace(text, pooled_only=not at % 2) for at, text in enumerate(batch.texts)])
        encoded = encode_batch(module.model, batch, loss_on="all")
        tokens = torch.randn(size, 3, config.resampler.num_visual_tokens, config.resampler.width, requires_grad=True)
        seen = tokens_for_text(module.model, encoded, tokens)
        assert seen is not None
        assert torch.equal(seen[:, :, latents:], tokens[:, :, latents:])
        assert torch.equal(seen[1::2], tokens[1::2])
        of = {
            tuple(medium.flatten().tolist()): divmod(at, 3)
            for at, medium in enumerate(tokens[:, :, :latents].flatten(0, 1))
        }
        for text in range(0, size, 2):
            whose = [of[tuple(medium.flatten().tolist())] for medium in seen[text, :, :latents]]
            assert len(set(whose)) == 3
            assert all(other != (text, at) and (size == 1 or other[0] != text) for at, other in enumerate(whose))
        (gradient,) = torch.autograd.grad(seen[::2].sum(), tokens)
        assert gradient[:, :, :latents].abs().max() == 0
        assert gradient[::2, :, latents:].min() == 1


def test_words_are_said_by_latents_alone(make_module: MakeModule, make_batch: MakeBatch) -> None:
    settings = {"config": replace(make_module().config, resampler=replace(TINY_CONFIG.resampler, pooled_side=2))}
    batch = make_batch(0, 4)

    def losses(changed: str = "", **options: object) -> float:
        module = make_module(**settings, **options)
        with torch.no_grad():
            for name, value in module.model.resampler.named_parameters():
                if changed and name.startswith("pooled.") == (changed == "pooled"):
                    value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(2)))
        return float(module.loss_sum(batch)[0].detach())

    assert losses() != losses("latents")
    assert losses() != losses("pooled")
    said = {"objective": "readout"}
    assert losses(**said) == losses("pooled", **said) != losses("latents", **said)


def test_a_share_of_the_warm_ups_loss_can_be_added_to_the_texts(make_module: MakeModule, make_batch: MakeBatch) -> None:
    batch = make_batch(0, 4)
    losses = {}
    for objective in ("text", "readout"):
        total, count = make_module(objective=objective).loss_sum(batch)
        losses[objective] = float(total) / count
    both = make_module(readout_weight=0.25).train()
    encoded = both.encoded(batch)
    text, said = (float(one) / count for one, count in zip(both.losses(encoded), both.counts(encoded), strict=True))
    assert (text, said) == pytest.approx((losses["text"], losses["readout"]), rel=1e-5)
    both.eval()
    total, count = both.loss_sum(batch)  # what validation reports is the text's alone
    assert float(total) / count == pytest.approx(losses["text"], rel=1e-5)


def test_the_resamplers_rate_is_a_share_of_the_others(make_module: MakeModule) -> None:
    module = make_module(learning_rate=0.5, resampler_learning_rate_share=0.1, warmup_steps=1)
    optimizer = module.configure_optimizers()[0][0]
    rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    assert all(rates[id(value)] == pytest.approx(0.05) for value in module.model.resampler.parameters())
    assert {rates[id(value)] for value in module.model.blocks.parameters()} == {0.5}
