"""Flamingo's trained parts once more, written for reading: one token, one head, one latent at a time, in float64.

Semantics from the paper (v1 3.1.2, 3.1.3 and 2, 3.1.1): a text token attends to the latents of its own medium and to
no other; a token before any medium gets zero. Parameters are used as they are given, so gradients reach them.
"""

import math

import torch
from torch import Tensor

from videoflamingo.models.cross_attention import GatedCrossAttentionBlock
from videoflamingo.models.feed_forward import FeedForward
from videoflamingo.models.resampler import FrameCorrelation, PerceiverResampler


def attend_one(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query `[d]`, a list of keys and values `[d]` -> `[d]`."""
    scores = [(query * key).sum() / len(query) ** 0.5 for key in keys]
    largest = max(float(score.detach()) for score in scores)
    weights = [torch.exp(score - largest) for score in scores]
    total = sum(weights)
    return sum(weight / total * value for weight, value in zip(weights, values, strict=True))


def cross_attention(
    query: Tensor, keys: Tensor, values: Tensor, media_index: list[list[int]], attend_to: str = "own"
) -> Tensor:
    """Query `[B, L, H, d]`, keys and values `[B, M, N, H, d]` -> `[B, L, H, d]`."""
    rows = []
    for row in range(query.shape[0]):
        tokens = []
        for token in range(query.shape[1]):
            heads = []
            for head in range(query.shape[2]):
                seen = [
                    (keys[row, medium, latent, head], values[row, medium, latent, head])
                    for medium in range(keys.shape[1])
                    for latent in range(keys.shape[2])
                    if medium + 1 == media_index[row][token]
                    or (attend_to == "all_previous" and medium + 1 < media_index[row][token])
                ]
                heads.append(
                    attend_one(query[row, token, head], [key for key, _ in seen], [value for _, value in seen])
                    if seen
                    else torch.zeros_like(query[row, token, head])
                )
            tokens.append(torch.stack(heads))
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Over the last axis, with torch's default epsilon."""
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    variance = (centred * centred).sum(-1, keepdim=True) / x.shape[-1]
    return centred / torch.sqrt(variance + 1e-5) * weight + bias


def feed_forward(x: Tensor, part: FeedForward) -> Tensor:
    """Norm, expansion, activation, contraction."""
    hidden = layer_norm(x, part.norm.weight, part.norm.bias) @ part.expand.weight.T
    if part.activation == "squared_relu":
        hidden = torch.where(hidden > 0, hidden * hidden, torch.zeros_like(hidden))
    else:
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ part.contract.weight.T


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[..., H*d]` -> `[..., H, d]`: each head is a stretch of neighbouring channels."""
    return torch.stack(x.chunk(heads, dim=-1), dim=-2)


def gated_block(
    text: Tensor,
    visual_tokens: Tensor,
    media_index: list[list[int]],
    block: GatedCrossAttentionBlock,
    attend_to: str = "own",
) -> Tensor:
    """Text `[B, L, E]`, visual tokens `[B, M, N, D]` -> `[B, L, E]`."""
    heads = block.heads_shape[0]
    media = visual_tokens
    if isinstance(block.norm_media, torch.nn.LayerNorm):
        media = layer_norm(visual_tokens, block.norm_media.weight, block.norm_media.bias)
    query = layer_norm(text, block.norm_text.weight, block.norm_text.bias) @ block.to_query.weight.T
    attended = cross_attention(
        split_heads(query, heads),
        split_heads(media @ block.to_keys.weight.T, heads),
        split_heads(media @ block.to_values.weight.T, heads),
        media_index,
        attend_to,
    )
    gates = (block.attention_gate, block.feed_forward_gate)
    attention_gate, feed_forward_gate = (1.0 if gate is None else torch.tanh(gate) for gate in gates)
    text = text + attention_gate * relative(attended.flatten(2) @ block.to_output.weight.T, text, block)
    return text + feed_forward_gate * relative(feed_forward(text, block.feed_forward), text, block)


def relative(written: Tensor, text: Tensor, block: GatedCrossAttentionBlock) -> Tensor:
    """In units of what the text's numbers have on average, where the block has that option."""
    return written * (text**2).mean(-1, keepdim=True) ** 0.5 if block.relative_to_text else written


def came_from(part: FrameCorrelation, number: int, patch: Tensor, before: Tensor) -> Tensor:
    """What a patch is told of where it was, from all patches `[P, D]` of the frame before."""
    side = math.isqrt(len(before))
    radius = (math.isqrt(len(part.origins)) - 1) // 2
    row, column = divmod(number, side)
    scores, vectors = [], []
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if 0 <= row + down < side and 0 <= column + right < side:
                other = before[(row + down) * side + column + right]
                one, two = part.compare.weight @ patch, part.compare.weight @ other
                scores.append(part.sharpness[0] * (one @ two) / (one.norm() * two.norm()))
                vectors.append(part.origins[(down + radius) * (2 * radius + 1) + right + radius])
    shares = torch.stack(scores).softmax(0)
    return (shares[:, None] * torch.stack(vectors)).sum(0)


def resampler(features: Tensor, part: PerceiverResampler) -> Tensor:
    """Features `[K, T, P, feature width]` -> visual tokens `[K, N, D]`, one medium after the other."""
    return torch.stack([_resample_one(medium, part) for medium in features])


def _resample_one(features: Tensor, part: PerceiverResampler) -> Tensor:
    if isinstance(part.project, torch.nn.Linear):
        features = features @ part.project.weight.T + part.project.bias
    times = _read_table(part.time, len(features))
    media = []  # every patch of every frame, [D] each
    for place, (frame, time) in enumerate(zip(features, times, strict=True)):
        for number, patch in enumerate(frame):
            token = patch + time + (0 if part.position is None else part.position[number])
            if part.differences is not None and place > 0:
                difference = patch - features[place - 1][number]
                token = token + part.differences.weight @ difference
                if part.changes is not None:
                    first, _, second = part.changes
                    token = token + second.weight @ (first.weight @ difference).clamp(min=0)
            if part.correlation is not None and place > 0:
                token = token + came_from(part.correlation, number, patch, features[place - 1])
            media.append(token)
    latents = list(part.latents)
    for layer in part.layers:
        heads, dim_head = layer.heads_shape
        key_weight, value_weight = layer.to_keys_values.weight.chunk(2)
        normed = [layer_norm(latent, layer.norm_latents.weight, layer.norm_latents.bias) for latent in latents]
        seen = [layer_norm(medium, layer.norm_media.weight, layer.norm_media.bias) for medium in media] + normed
        changed = []
        for latent, own in zip(latents, normed, strict=True):
            attended = []
            for head in range(heads):
                rows = slice(head * dim_head, (head + 1) * dim_head)
                keys = [key_weight[rows] @ token for token in seen]
                values = [value_weight[rows] @ token for token in seen]
                attended.append(attend_one(layer.to_query.weight[rows] @ own, keys, values))
            latent = latent + layer.to_output.weight @ torch.cat(attended)
            changed.append(latent + feed_forward(latent, layer.feed_forward))
        latents = changed
    return torch.stack([layer_norm(latent, part.norm.weight, part.norm.bias) for latent in latents])


def _read_table(table: Tensor, num_frames: int) -> list[Tensor]:
    """The table, as a function of time that is linear between the centres of its entries, at the frames' centres."""
    times = []
    for frame in range(num_frames):
        place = (frame + 0.5) / num_frames * len(table) - 0.5  # in entries; entry i has its centre at i
        place = min(max(place, 0.0), len(table) - 1.0)
        below = int(place)
        above = min(below + 1, len(table) - 1)
        times.append(table[below] * (1 - (place - below)) + table[above] * (place - below))
    return times
