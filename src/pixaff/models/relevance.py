"""Where a vision transformer sees a class: relevance propagation times gradient, rolled out over the blocks.

Chefer, Gur & Wolf, *Transformer Interpretability Beyond Attention Visualization*, CVPR 2021. Two values are propagated
from the logit of a class back through the blocks: relevance, by one rule for each kind of layer, and the gradient. A
block with the attention map A adds relu(gradient of A x relevance of A), averaged over the heads, to the rollout.

Images and classes are two leading dimensions, so one forward pass serves all classes, and what the rules need of the
activations alone is computed once per image. Both values are computed in closed form, and only the one row of the
rollout that is needed is kept. Autograd records nothing and there are no hooks, so a call has no side effects, works in
inference mode, and holds the maps of one head at a time.

The published rules divide by sums that may cancel to almost zero. Only a constant of 1e-9 protects them, so in float32
the maps depend on the last bit of every number. Here such a sum is kept away from zero by a share of its own layer's
root mean square (the epsilon rule of Bach et al., PLOS ONE 2015); `PUBLISHED` selects the constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAFE = 1e-9
PUBLISHED = 0.0
STEADY = 0.1


@dataclass(frozen=True)
class Rules:
    """How relevance is propagated.

    Attributes:
        propagate: Whether relevance is propagated at all; otherwise the gradient is multiplied by the attention itself.
        steady: Share of its root mean square by which a divisor is kept away from zero; `PUBLISHED` means 1e-9.
        dtype: dtype of the matrix products; everything else has the dtype of the activations.
    """

    propagate: bool
    steady: float
    dtype: torch.dtype

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b."""
        return (a.to(self.dtype) @ b.to(self.dtype)).to(a.dtype)


@dataclass(frozen=True)
class Trace:
    """What a block computed for images (B): tokens x -> mid = x + attended -> out = mid + mlp.

    Attributes:
        x, normed1, attended, mid, normed2, mlp, out: (B, n, D).
        qkv: (B, n, 3 D).
        mixed: (B, n, D), the values mixed by attention, before ``proj``.
        hidden: (B, n, 4 D), before GELU.
    """

    x: Tensor
    normed1: Tensor
    qkv: Tensor
    mixed: Tensor
    attended: Tensor
    mid: Tensor
    normed2: Tensor
    hidden: Tensor
    mlp: Tensor
    out: Tensor


def trace_blocks(blocks: Sequence[Any], x: Tensor, dtype: torch.dtype) -> list[Trace]:
    """Run timm's blocks (pre-norm, no layer scale) on tokens (B, n, D) and keep what each computed."""
    traces = []
    for block in blocks:
        normed1 = block.norm1(x)
        qkv = _linear(block.attn.qkv, normed1, dtype)
        q, k, v = (part.to(dtype) for part in _heads(qkv, block.attn.num_heads, 3))
        mixed = F.scaled_dot_product_attention(q, k, v).to(x.dtype).transpose(1, 2).flatten(2)
        attended = _linear(block.attn.proj, mixed, dtype)
        mid = x + attended
        normed2 = block.norm2(mid)
        hidden = _linear(block.mlp.fc1, normed2, dtype)
        mlp = _linear(block.mlp.fc2, F.gelu(hidden), dtype)
        traces.append(Trace(x, normed1, qkv, mixed, attended, mid, normed2, hidden, mlp, mid + mlp))
        x = traces[-1].out
    return traces


def class_rows(
    blocks: Sequence[Any], norm: nn.LayerNorm, head: nn.Linear, traces: Sequence[Trace], classes: Tensor, rules: Rules
) -> Tensor:
    """The class token's row of the rollout, without its own column.

    Args:
        blocks: timm's blocks.
        norm, head: The last norm and the classifier, which sees the class token, the first one.
        traces: Traces of the blocks, for B images.
        classes: int64 (C,), the classes that are needed.
        rules: How relevance is propagated.

    Returns:
        (B, C, n - 1), values >= 0.
    """
    last = traces[-1].out[:, None, :1]
    token = norm(last)
    wanted = F.one_hot(classes, head.out_features).to(token.dtype)[:, None].expand(len(last), -1, -1, -1)
    grad = _norm_gradient(norm, last, wanted @ head.weight)
    relevance = _linear_relevance(head, token, head(token), wanted, rules) if rules.propagate else None
    rollout = torch.ones_like(grad[..., :1])
    for index in range(len(blocks) - 1, -1, -1):
        rollout, grad, relevance = _back(blocks[index], traces[index], rollout, grad, relevance, rules, index == 0)
    return rollout[..., 1:, 0]


def _back(
    block: Any, trace: Trace, rollout: Tensor, grad: Tensor, relevance: Tensor | None, rules: Rules, first: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One block, from its output to its input.

    Rollout (B,C,r,1), gradient and relevance (B,C,r,D) contain the first r tokens, which are all that are not zero:
    above the last block, only the class token. The input of the first block needs neither gradient nor relevance.
    """
    rows = grad.shape[2]
    x, mid, attended, mlp, normed2, hidden, mixed = (
        part[:, None, :rows]
        for part in (trace.x, trace.mid, trace.attended, trace.mlp, trace.normed2, trace.hidden, trace.mixed)
    )
    attention, fc1, fc2 = block.attn, block.mlp.fc1, block.mlp.fc2

    grad_hidden = rules.product(grad, fc2.weight) * _gelu_slope(hidden)
    grad = grad + _norm_gradient(block.norm2, mid, rules.product(grad_hidden, fc1.weight))
    grad_mixed = rules.product(grad, attention.proj.weight)
    kept = mixed_relevance = None
    if relevance is not None:
        passed, branch = _split(mid, mlp, _reciprocal(trace.out, rules)[:, None, :rows], relevance)
        branch = _linear_relevance(fc2, F.gelu(hidden), mlp, branch, rules)
        joined = passed + _linear_relevance(fc1, normed2, hidden, branch, rules)
        kept, branch = _split(x, attended, _reciprocal(trace.mid, rules)[:, None, :rows], joined)
        branch = _linear_relevance(attention.proj, mixed, attended, branch, rules)
        mixed_relevance = branch * _reciprocal(trace.mixed, rules)[:, None, :rows]

    rollout, grad_qkv, qkv_relevance = _back_attention(
        attention, trace.qkv, mixed, rollout, grad_mixed, mixed_relevance, rules, first
    )
    if grad_qkv is None:
        return rollout, grad, None
    missing = (0, 0, 0, trace.x.shape[1] - rows)
    grad = F.pad(grad, missing) + _norm_gradient(
        block.norm1, trace.x[:, None], rules.product(grad_qkv, attention.qkv.weight)
    )
    if kept is not None and qkv_relevance is not None:
        carried = _linear_relevance(attention.qkv, trace.normed1[:, None], trace.qkv[:, None], qkv_relevance, rules)
        relevance = F.pad(kept, missing) + carried
    return rollout, grad, relevance


def _back_attention(
    attention: Any,
    qkv: Tensor,
    mixed: Tensor,
    rollout: Tensor,
    grad_mixed: Tensor,
    mixed_relevance: Tensor | None,
    rules: Rules,
    first: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Attention, one head at a time: the row of the rollout, and what is passed on to queries, keys and values.

    Args:
        qkv: (B, n, 3 D).
        mixed: (B, 1, r, D), what the values were mixed to.
        rollout: (B, C, r, 1) of the blocks above.
        grad_mixed: (B, C, r, D), gradient of the mixed values.
        mixed_relevance: (B, C, r, D), their relevance divided by themselves.
    """
    heads, rows, count = attention.num_heads, rollout.shape[2], qkv.shape[1]
    q, k, v = (part[:, None] for part in _heads(qkv, heads, 3))
    grads = grad_mixed.unflatten(3, (heads, -1))
    # What softmax takes off the gradient of each row: its mean over the row, weighted by the attention.
    means = (grads * mixed.unflatten(3, (heads, -1))).sum(-1, keepdim=True)
    shares = None if mixed_relevance is None else mixed_relevance.unflatten(3, (heads, -1))
    shape = (*rollout.shape[:2], count, 3, heads, q.shape[-1])
    to_grad = None if first else qkv.new_zeros(shape)
    to_relevance = None if first or shares is None else qkv.new_zeros(shape)
    added = qkv.new_zeros((*rollout.shape[:2], 1, count))
    weights = rollout.transpose(2, 3)
    for head in range(heads):
        query, key, value = q[:, :, head, :rows], k[:, :, head], v[:, :, head]
        scores = rules.product(q[:, :, head], key.mT)
        weight = torch.softmax(scores[..., :rows, :] * attention.scale, -1)
        grad = rules.product(grads[..., head, :], value.mT)
        if shares is None:
            added += weights @ (grad * weight).relu_()
        else:
            relevance = rules.product(shares[..., head, :] / 2, value.mT).mul_(weight)
            added += weights @ (grad * relevance).relu_()
        if to_grad is None:
            continue
        to_grad[..., 2, head, :] = rules.product(weight.mT, grads[..., head, :])
        grad = grad.sub_(means[..., head, :]).mul_(weight)
        to_grad[..., :rows, 0, head, :] = rules.product(grad, key) * attention.scale
        to_grad[..., 1, head, :] = rules.product(grad.mT, query) * attention.scale
        if shares is None or to_relevance is None:
            continue
        to_relevance[..., 2, head, :] = value * rules.product(weight.mT, shares[..., head, :]) / 2
        relevance *= _reciprocal(scores, rules)[..., :rows, :]
        to_relevance[..., :rows, 0, head, :] = query * rules.product(relevance, key) / 2
        to_relevance[..., 1, head, :] = key * rules.product(relevance.mT, query) / 2
    rollout = F.pad(rollout, (0, 0, 0, count - rows)) + added.mT / heads
    return (
        rollout,
        None if to_grad is None else to_grad.flatten(3),
        None if to_relevance is None else to_relevance.flatten(3),
    )


def _split(a: Tensor, b: Tensor, reciprocal: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of ``a + b``, divided between both, each scaled to its share of the whole."""
    share = relevance * reciprocal
    parts = (a * share, b * share)
    whole = relevance.sum((2, 3), keepdim=True)
    sums = [part.sum((2, 3), keepdim=True) for part in parts]
    sizes = sums[0].abs() + sums[1].abs()
    factors = [total.abs() * _safe(sizes) * whole * _safe(total) for total in sums]
    return parts[0].mul_(factors[0]), parts[1].mul_(factors[1])


def _linear_relevance(layer: nn.Linear, x: Tensor, out: Tensor, relevance: Tensor, rules: Rules) -> Tensor:
    """Relevance through a linear layer, by its positive products only (x+ W+ and x- W-); the bias gets none.

    x+ W+ + x- W- is half of x W + |x| |W|, of which the forward pass has done the first; in the backward pass the
    halves of both cancel out.
    """
    weight, size, magnitude = layer.weight, layer.weight.abs(), x.abs()
    positive = (out if layer.bias is None else out - layer.bias) + rules.product(magnitude, size.mT)
    share = relevance * _safe(positive)
    return rules.product(share, weight).mul_(x).addcmul_(magnitude, rules.product(share, size))


def _reciprocal(x: Tensor, rules: Rules) -> Tensor:
    """1 / x for a sum that may cancel: 1 / (x +- its share of the root mean square over an image)."""
    if rules.steady == PUBLISHED:
        return _safe(x)
    count = x.shape[-2] * x.shape[-1]
    floor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) * (rules.steady / math.sqrt(count))
    return torch.copysign(floor.clamp(min=SAFE), x).add_(x).reciprocal_()


def _safe(x: Tensor) -> Tensor:
    """1 / (x + 1e-9), and 0 where x is 0."""
    moved = x + SAFE
    return moved.masked_fill_(moved == 0, SAFE).reciprocal_().masked_fill_(x == 0, 0)


def _linear(layer: nn.Linear, x: Tensor, dtype: torch.dtype) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return F.linear(x.to(dtype), layer.weight.to(dtype), bias).to(x.dtype)


def _heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """(B, n, parts x D) -> that many (B, heads, n, D / heads)."""
    return x.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _norm_gradient(norm: nn.LayerNorm, x: Tensor, grad: Tensor) -> Tensor:
    """Gradient at a layer norm's input."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    unit, grad = centred * scale, grad * norm.weight
    return scale * (grad - grad.mean(-1, keepdim=True) - unit * (grad * unit).mean(-1, keepdim=True))


def _gelu_slope(x: Tensor) -> Tensor:
    """Derivative of GELU: the normal distribution's function plus x times its density."""
    density = (x * x / -2).exp() / math.sqrt(2 * math.pi)
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density
