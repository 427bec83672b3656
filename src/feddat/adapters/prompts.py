"""Soft prompts: a few trained tokens beside the words, and beside the image patches where the model sees both at once.

Lester, Al-Rfou, Constant 2021, arXiv 2104.08691; re-parametrised as in prefix tuning (Li and Liang 2021, arXiv
2101.00190, section 4.3): what trains are the tokens and a small network d -> d/4 -> d with tanh that they pass through.

PEFT's own prompt tuning puts its tokens in front of the word embeddings, before their positions are added, and leaves
them in the output: ViLT and BERT would pool a prompt instead of [CLS], and images would get none. Here the tokens enter
where the transformer layers begin, and are taken off where these end.
"""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from feddat.adapters.base import ADAPTERS, TRAINED, Route, check_adapter
from feddat.adapters.sites import PromptSite
from feddat.adapters.states import AdapterStates, single_adapter

#: The inner width of the re-parametrising network is the model's width divided by this.
REDUCTION = 4


class Prompt(nn.Module):
    """Tokens for one input of the model, float32.

    Args:
        length: number of tokens.
        width: d, the model's hidden size.
        device: where they are.
    """

    def __init__(self, length: int, width: int, device: torch.device) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.tokens = nn.Parameter(torch.empty(length, width, **options))
        self.down = nn.Linear(width, width // REDUCTION, **options)
        self.up = nn.Linear(width // REDUCTION, width, **options)
        self.reset(None)

    def forward(self) -> Tensor:
        """Return the tokens as the model sees them, (length, d)."""
        prompt: Tensor = self.up(self.down(self.tokens).tanh())
        return prompt

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None) -> None:
        """Draw tokens from N(0, 1), weights and biases uniform in ±1/√fan-in: torch's defaults for such modules."""
        self.tokens.copy_(torch.empty(self.tokens.shape).normal_(generator=generator))
        for linear in (self.down, self.up):
            bound = linear.in_features**-0.5
            for parameter in linear.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


class SoftPrompts(AdapterStates):
    """Global, local and anchor prompts of one model (:class:`feddat.adapters.base.Adapters`).

    Args:
        model: the base model, on the device where it stays; its parameters are frozen.
        site: where the tokens enter.
        length: tokens per input.

    Attributes:
        model: the same model, with hooks.

    Raises:
        ValueError: not exactly one module fits the site.
    """

    def __init__(self, model: nn.Module, site: PromptSite, length: int = 5) -> None:
        self.model = model.requires_grad_(False)
        self._causal = site.causal
        self._length = length * len(site.inputs)
        self._active: str | None = None
        self._entered = False
        name = _find(model, site.stack)
        around: Any = model.get_submodule(name.rpartition(".")[0])
        self._types: nn.Embedding | None = around.embeddings.token_type_embeddings if len(site.inputs) > 1 else None
        config: Any = model.config
        width, device = config.get_text_config().hidden_size, next(model.parameters()).device
        self._prompts = {
            adapter: nn.ModuleDict({kind: Prompt(length, width, device) for kind in site.inputs})
            for adapter in ADAPTERS
        }
        for adapter, prompts in self._prompts.items():
            prompts.requires_grad_(adapter in TRAINED)
        super().__init__({adapter: dict(prompts.named_parameters()) for adapter, prompts in self._prompts.items()})
        self.refresh_anchor()
        self._stack = stack = model.get_submodule(name)
        stack.register_forward_pre_hook(self._enter, with_kwargs=True)
        stack.register_forward_hook(self._leave)
        self.route("global")

    @property
    def changed(self) -> list[nn.Module]:
        """The stack of layers that the tokens enter."""
        return [self._stack]

    def route(self, route: Route) -> None:
        """Let the following forward passes see one adapter's prompts, or with ``none`` no prompts.

        Raises:
            ValueError: there is no such route or adapter, or the route mixes or scales adapters.
        """
        self._active = single_adapter(route, "prompt")
        self.opened = route

    def initialise(self, generator: torch.Generator, adapter: str) -> None:
        """Draw one adapter's prompts anew from a CPU generator; the same on every device.

        Raises:
            ValueError: there is no such adapter.
        """
        check_adapter(adapter)
        for prompt in self._prompts[adapter].values():
            cast(Prompt, prompt).reset(generator)

    def _prepend(self, states: Tensor, adapter: str) -> Tensor:
        """Return ``states`` (N, L, d) with an adapter's tokens in front, each with its input's type embedding."""
        tokens = [prompt() for prompt in self._prompts[adapter].values()]
        if self._types is not None:
            tokens = [token + kind for token, kind in zip(tokens, self._types.weight, strict=False)]
        front = torch.cat(tokens).to(states.dtype).expand(len(states), -1, -1)
        return torch.cat([front, states], dim=1)

    def _enter(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Put the tokens in front of what enters the transformer layers, and let its mask and positions follow."""
        self._entered = False
        if self._active is None:
            return None
        given = {key: value for key, value in kwargs.items() if value is not None}
        cache = given.get("cache")
        if cache is not None and (seen := cache.get_seq_length()):
            # The cache has seen them already: its tokens, with them, are for the mask to name.
            if _keys(given.get("attention_mask")) <= seen:
                raise ValueError(
                    "soft prompts cannot go on from a filled cache without a 4-D mask over all that is in it"
                )
            return None
        self._entered = True
        if "input_ids" in given:
            given["inputs_embeds"] = stack.get_input_embeddings()(given.pop("input_ids"))
        if args:
            args = (self._prepend(args[0], self._active), *args[1:])
        else:
            key = "inputs_embeds" if "inputs_embeds" in given else "hidden_states"
            given[key] = self._prepend(given[key], self._active)
        if "attention_mask" in given:
            mask = given["attention_mask"]
            given["attention_mask"] = (
                {key: value if value is None else self._extended(value) for key, value in mask.items()}
                if isinstance(mask, dict)  # one for each kind of layer
                else self._extended(mask)
            )
        if "visual_pos_masks" in given:  # where Qwen3-VL adds pictures again, between its layers
            given["visual_pos_masks"] = functional.pad(given["visual_pos_masks"], (self._length, 0), value=False)
        if "position_ids" in given:
            given["position_ids"] = extend_positions(given["position_ids"], self._length)
        return args, given

    def _leave(self, stack: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Take the tokens off what leaves the transformer layers."""
        if not self._entered:
            return None
        if isinstance(output, tuple):
            return output[0][:, self._length :], *output[1:]
        output.last_hidden_state = output.last_hidden_state[:, self._length :]
        return output

    def _extended(self, mask: Tensor) -> Tensor:
        return extend_mask(mask, self._length, self._causal)


def _keys(mask: Any) -> int:
    """Return over how many tokens a 4-D mask is, or the first of several; 0: there is none."""
    mask = next(iter(mask.values())) if isinstance(mask, dict) else mask
    return int(mask.shape[-1]) if isinstance(mask, Tensor) and mask.dim() == 4 else 0


def extend_mask(mask: Tensor, length: int, causal: bool) -> Tensor:
    """Return an attention mask with ``length`` more tokens in front, which every other token sees.

    Args:
        mask: (N, L), not zero where a token is; or (N, 1, Q, L), which tokens position q sees: true where it does, or a
            number that is added to the scores.
        length: number of tokens.
        causal: whether each of them sees only those before it, rather than all that the first position sees.
    """
    if mask.dim() == 2:
        return functional.pad(mask, (length, 0), value=1)
    seen, hidden = (0.0, torch.finfo(mask.dtype).min) if mask.is_floating_point() else (True, False)
    mask = functional.pad(mask, (length, 0), value=seen)
    if mask.shape[2] == 1:  # one row for all positions
        return mask
    rows = mask[:, :, :1].expand(-1, -1, length, -1)
    if causal:
        earlier = torch.ones(rows.shape[2:], dtype=torch.bool, device=mask.device).tril()
        rows = torch.full_like(rows, hidden).masked_fill(earlier, seen)
    return torch.cat([rows, mask], dim=2)


def extend_positions(positions: Tensor, length: int) -> Tensor:
    """Return positions (..., L) moved on by ``length``, with those of as many tokens in front."""
    front = torch.arange(length, device=positions.device, dtype=positions.dtype)
    return torch.cat([front.expand(*positions.shape[:-1], -1), positions + length], dim=-1)


def _find(model: nn.Module, pattern: str) -> str:
    names: list[str] = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ValueError(
            f"soft prompts need one module named like {pattern!r} in {type(model).__name__}; found {found}"
        )
    return names[0]
