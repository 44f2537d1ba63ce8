"""Recomputes training runs by hand in float64: as TextBrewer trains, or as we train on purpose.

Nothing of the objective, the step, the optimizers or the loop is used here, only the losses, which
have reference values of their own. As TextBrewer trains, this must give the reference values; that
makes it a witness for what the same run gives with our choices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbrewer import losses
from jaxbrewer.registry import MATCH_LOSS_MAP

from . import Case, cases
from .models import cross_entropy, make_model
from .runs import arrays, batches_of, steps_of

Params = dict[str, Any]
PROJECTED = "proj/"


@functools.cache
def recompute(name: str, *, ours: bool) -> dict[str, np.ndarray]:
    """The values of :func:`~tests.golden.runs.references` for the case of this name.

    Args:
        name: A case of the trajectories, of BasicTrainer, BasicDistiller or GeneralDistiller.
        ours: Clips student and projections together, by ``max_norm / norm``; takes scheduled
            weights from the first step on; averages masked losses over all positions of a step;
            selects token logits by ``inputs_mask``. TextBrewer clips the student alone, by
            ``max_norm / (norm + 1e-6)``; begins with the constant weights; averages the means of
            the batches; compares all positions of token logits.
    """
    case = next(case for case in cases("trajectories") if case.name == name)
    with jax.enable_x64(True):
        return _run(case, ours)


def _run(case: Case, ours: bool) -> dict[str, np.ndarray]:
    batches, updates = batches_of(case, "float64"), steps_of(case)
    params: Params = arrays(case, "S", "float64")
    params |= {PROJECTED + key: x for key, x in arrays(case, "proj", "float64").items()}
    gradient = jax.jit(jax.grad(functools.partial(_total, case, ours), has_aux=True))
    slots: Params = {}
    out: dict[str, Any] = {"grad_norm": [], "kd_weight": [], "hard_weight": []}
    for number, steps in enumerate(updates):
        group = [batches[step] for step in steps]
        weights = _weights(case, number, len(updates), ours)
        counts = np.array([np.sum(batch.get("mask", 1.0)) for batch in group])
        shares = counts / counts.mean() if ours else np.ones(len(group))
        parts = [
            gradient(params, batch, weights, share)
            for batch, share in zip(group, shares, strict=True)
        ]
        grads, logs = jax.tree.map(lambda *each: np.mean(each, axis=0), *parts)
        for key, value in logs.items():
            out.setdefault(f"log/{key}", []).append(value)
        grads, norm = _clip(grads, case.args["train"].get("max_grad_norm", -1), ours)
        out["grad_norm"].append(norm)
        out["kd_weight"].append(weights["kd_loss"])
        out["hard_weight"].append(weights["hard_label_loss"])
        params = _move(case, params, grads, slots, number)
        if number == 0:
            out |= {f"step1/S/{key}": x for key, x in params.items() if PROJECTED not in key}
    for key, x in params.items():
        out[f"final/{key}" if PROJECTED in key else f"final/S/{key}"] = x
    return {key: np.asarray(value) for key, value in out.items()}


def _weights(case: Case, number: int, total: int, ours: bool) -> dict[str, float]:
    config = case.args.get("d_config", {"hard_label_weight": 1})
    weights = {}
    for loss, field, default in (
        ("kd_loss", "kd_loss_weight", 1),
        ("hard_label_loss", "hard_label_weight", 0),
    ):
        weight, scheduler = config.get(field, default), config.get(f"{field}_scheduler")
        if scheduler is not None and (ours or number):
            done = number / total
            weight = {"linear_decay": 1 - done, "linear_growth": done}[scheduler]
        weights[loss] = float(weight)
    return weights


def _total(case: Case, ours: bool, params: Params, batch: Any, weights: Any, share: Any) -> Any:
    """The loss of one batch; ``share`` multiplies what is averaged over masked positions."""
    args, config = case.args, case.args.get("d_config", {})
    inputs = {key: batch[key] for key in ("x", "ids", "mask") if key in batch}
    S = make_model(args["student"])(params, **inputs)
    terms, logs = [], {}
    if "teacher" in args:
        weights_T = jax.tree.map(jnp.asarray, arrays(case, "T", "float64"))
        T = make_model(args["teacher"])(weights_T, **inputs)
        masks = {"logits_mask"}
        if ours and S["logits"][0].ndim == 3:
            masks |= {"inputs_mask"}
        selected = batch["mask"] if masks & set(args["adaptor_S"]) else None
        kd = losses.kd_ce_loss(S["logits"][0], T["logits"][0], config["temperature"], selected)
        kd = kd if selected is None else kd * share
        terms.append(weights["kd_loss"] * kd)
        logs["unweighted_kd_loss"] = kd
    for index, match in enumerate(config.get("intermediate_matches", ())):
        state = S[match["feature"]][match["layer_S"]]
        if "proj" in match:
            kernel, bias = (params[f"{PROJECTED}{index}/{leaf}"] for leaf in ("weight", "bias"))
            state = state @ kernel.T + bias[None, None]
        target = T[match["feature"]][match["layer_T"]]
        loss = MATCH_LOSS_MAP[match["loss"]](state, target, batch["mask"]) * share
        terms.append(match["weight"] * loss)
        name = "{feature}_{loss}_{layer_S}_{layer_T}".format(**match)
        logs[f"unweighted_{name}"] = loss
    if "losses" in args["adaptor_S"]:
        hard = cross_entropy(S["logits"][0], batch["labels"])
        terms.append(weights["hard_label_loss"] * hard)
        if "teacher" in args:
            logs["unweighted_hard_label_loss"] = hard
    return sum(terms), {"total_loss": sum(terms), **logs}


def _clip(grads: Params, max_norm: float, ours: bool) -> tuple[Params, float]:
    """The clipped gradients, and the norm before clipping."""
    counted = [g for key, g in grads.items() if ours or PROJECTED not in key]
    norm = float(np.sqrt(sum(np.sum(g**2) for g in counted)))
    factor = min(1.0, max_norm / (norm if ours else norm + 1e-6)) if max_norm > 0 else 1.0
    return {
        key: g * factor if ours or PROJECTED not in key else g for key, g in grads.items()
    }, norm


def _move(case: Case, params: Params, grads: Params, slots: Params, number: int) -> Params:
    """One step of PyTorch's SGD, Adam or AdamW; ``slots`` holds its state."""
    moved, kind = {}, case.args["optimizer"]["type"]
    rates = case.outputs["lr"].float64[number]
    for group, rate in zip(case.args["optimizer_groups"], rates, strict=True):
        for key in group["params"]:
            w, g = params[key], grads[key]
            if kind == "SGD":
                g = slots[key] = group["momentum"] * slots.get(key, 0.0) + g
                moved[key] = w - rate * g
                continue
            (b1, b2), (m, v) = group["betas"], slots.get(key, (0.0, 0.0))
            m, v = slots[key] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            m_hat, v_hat = m / (1 - b1 ** (number + 1)), v / (1 - b2 ** (number + 1))
            decay = 1 - rate * group["weight_decay"]  # 0 for Adam
            moved[key] = w * decay - rate * m_hat / (np.sqrt(v_hat) + group["eps"])
    return moved
