"""What transformers computes, as plain numpy: from a folder, in float32 or in float64.

The folder comes first (config.json and model.safetensors, random numbers throughout), and what is
compared is what transformers makes of that folder, as a user's would be.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from tests.parity.cases import (
    BETAS,
    DECAY,
    EPSILON,
    IGNORED,
    LEARNING_RATE,
    NEW_TOKENS,
    Case,
    Inputs,
)

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Computed(NamedTuple):
    """outputs: logits and the like ("logits", "hidden/0" ...) and the loss; gradients and stepped:
    by the reference's name of the tensor, tied ones under every name."""

    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    stepped: dict[str, np.ndarray]


class Generated(NamedTuple):
    """The new tokens of every prompt, their log-probabilities, and by how much the likeliest token
    led the next one where the choice was closest."""

    tokens: list[list[int]]
    logprobs: np.ndarray
    lead: float


def make_folder(
    case: Case, folder: Path, seed: int = 0, *, decisive: bool = False, grid: float | None = None
) -> None:
    """A checkpoint of random numbers. Biases and norms too: nothing is left at 0 or 1, where a
    parameter that is not read would not show. `decisive`: large matrices and small biases, so that
    the likeliest token leads clearly and depends on the tokens before. `grid`: all numbers are
    multiples of it, which makes small files."""
    model = _class(case)(_class(case).config_class(**case.config))
    generator = torch.Generator().manual_seed(seed)
    if case.untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, tensor in _leaves(model).items():
            vector = tensor.ndim == 1 or name == "final_logits_bias"
            centre = 1.0 if name.endswith("weight") and vector else 0.0
            scale = (0.1 if vector else 0.6) if decisive else 0.25
            if name.endswith(".q.weight"):
                # T5 does not divide the scores by the square root of the width: its queries do.
                scale /= case.config["d_kv"] ** 0.5
            tensor.normal_(centre, scale, generator=generator)
            if grid is not None:
                tensor.div_(grid).round_().mul_(grid)
            if case.silenced and name.endswith("EncDecAttention.o.weight"):
                tensor.zero_()
    model.save_pretrained(folder)
    if case.untied == "published":
        values = json.loads((folder / CONFIG).read_text())
        del values["scale_decoder_outputs"]
        (folder / CONFIG).write_text(json.dumps({**values, "tie_word_embeddings": False}))


def compute(case: Case, folder: Path, inputs: Inputs, *, double: bool = False) -> Computed:
    """One forward and backward pass, and one step of the optimiser."""
    model = _load(case, folder)
    with _double() if double else contextlib.nullcontext():
        model = _doubled(case, model) if double else model
        outputs, loss = _forward(case, model, inputs)
        loss.backward()
        leaves = _leaves(model)
        unique = list({id(tensor): tensor for tensor in leaves.values()}.values())
        for tensor in unique:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        gradients = _numpy({name: tensor.grad for name, tensor in leaves.items()})
        torch.optim.AdamW(
            unique, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY
        ).step()
    return Computed(_numpy({**outputs, "loss": loss}), gradients, _numpy(leaves))


def outputs(case: Case, folder: Path, inputs: Inputs) -> dict[str, np.ndarray]:
    """The outputs alone."""
    with torch.no_grad():
        found, _ = _forward(case, _load(case, folder), inputs)
    return _numpy(found)


def generate(case: Case, folder: Path, prompts: list[list[int]]) -> Generated:
    """Greedy continuations, all prompts in one batch: a decoder's padded on the left, sources on
    the right. OpenAI's first GPT and T5's decoder take no padding there: one by one."""
    model = _load(case, folder)
    model.generation_config.eos_token_id = None
    if case.silenced or case.model.startswith("OpenAI"):
        parts = [_generate(case, model, [prompt]) for prompt in prompts]
    else:
        parts = [_generate(case, model, prompts)]
    return Generated(
        [row for part in parts for row in part.tokens],
        np.concatenate([part.logprobs for part in parts]),
        min(part.lead for part in parts),
    )


def _generate(case: Case, model: Any, prompts: list[list[int]]) -> Generated:
    longest = max(map(len, prompts))
    tokens = np.full((len(prompts), longest), case.pad_id)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        left = longest - len(prompt) if case.task == "causal" else 0
        tokens[row, left : left + len(prompt)] = prompt
        mask[row, left : left + len(prompt)] = 1
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if case.silenced:
        # The decoder reads the prompt; what the encoder reads adds nothing.
        inputs = {"input_ids": tokens[:, :1], "decoder_input_ids": tokens}
    result = model.generate(
        **{name: torch.from_numpy(x) for name, x in inputs.items()},
        do_sample=False,
        num_beams=1,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=case.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack(result.logits, dim=1)
    first, second = logits.topk(2).values.unbind(-1)
    logprobs = (first - logits.logsumexp(-1)).numpy()
    new = result.sequences[:, -NEW_TOKENS:]
    return Generated(new.tolist(), logprobs, float((first - second).min()))


def _class(case: Case) -> Any:
    return getattr(transformers, case.model)


def _load(case: Case, folder: Path) -> Any:
    model = _class(case).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for tensor in _leaves(model).values():
        tensor.requires_grad_(True)
    return model.eval()


def _doubled(case: Case, model: Any) -> Any:
    """The same model made anew in float64, tables of angles included."""
    double = _class(case)(model.config).double()
    if case.untied:
        double.lm_head.weight = torch.nn.Parameter(double.lm_head.weight.detach().clone())
    double.load_state_dict(model.state_dict())
    for tensor in _leaves(double).values():
        tensor.requires_grad_(True)
    return double.eval()


def _leaves(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, and what a checkpoint holds besides (Marian's final_logits_bias), by every
    name."""
    tensors = model.state_dict(keep_vars=True)
    return {name: x for name, x in tensors.items() if x.is_floating_point()}


def _forward(
    case: Case, model: Any, inputs: Inputs
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    arguments: dict[str, Any] = {
        name: torch.from_numpy(x).to(model.dtype if x.dtype == np.float32 else torch.int64)
        for name, x in inputs.items()
    }
    if case.task == "permuted":
        arguments["use_mems"] = True
        if "mems" in arguments:
            arguments["mems"] = list(arguments["mems"])
    if case.silenced:
        arguments = {
            "input_ids": arguments["input_ids"][:, :1],
            "decoder_input_ids": arguments["input_ids"],
            "decoder_attention_mask": arguments["attention_mask"],
            # T5 predicts the label of the same position, a decoder that of the next one.
            "labels": torch.nn.functional.pad(arguments["labels"][:, 1:], (0, 1), value=IGNORED),
        }
    result = model(**arguments, output_hidden_states=True, return_dict=True)
    loss = _span_loss(result, arguments) if case.task == "span" else result.loss
    return _outputs(case, result), loss


def _outputs(case: Case, result: Any) -> dict[str, torch.Tensor]:
    names = {"prediction_logits": "logits", "seq_relationship_logits": "next_sentence"}
    outputs = {
        names.get(name, name): result[name]
        for name in ("logits", "start_logits", "end_logits", *names)
        if name in result
    }
    layers = {
        "hidden": result.get("hidden_states"),
        "encoder": result.get("encoder_hidden_states"),
        "decoder": result.get("decoder_hidden_states"),
    }
    if case.silenced:
        layers = {"hidden": layers["decoder"]}
    if case.task == "permuted":
        # Both streams stand in turn; the other one's last state is what the logits are made of.
        layers["hidden"] = layers["hidden"][::2]
        layers["memory"] = tuple(memory.transpose(0, 1) for memory in result.mems)
    for kind, states in layers.items():
        outputs.update({f"{kind}/{i}": state for i, state in enumerate(states or ())})
    return outputs


def _span_loss(result: Any, arguments: dict[str, Any]) -> torch.Tensor:
    """The reference's own counts padding among the possible answers, with logits that mean
    nothing; here only tokens are."""
    loss = torch.zeros(())
    for end in ("start", "end"):
        logits = result[f"{end}_logits"]
        logits = logits.masked_fill(arguments["attention_mask"] == 0, -torch.inf)
        loss = loss + torch.nn.functional.cross_entropy(logits, arguments[f"{end}_positions"]) / 2
    return loss


@contextlib.contextmanager
def _double() -> Iterator[None]:
    """What the models do in float32 on purpose (softmax, norms, angles) in float64."""
    saved = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved[:3]
        torch.set_default_dtype(saved[3])


def _numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
