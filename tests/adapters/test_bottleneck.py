"""The bottleneck tuner on every architecture, against formulas written out by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftConfig, PeftModel, get_peft_model
from tiny_models import Case
from torch import Tensor, nn

from feddat.adapters.bottleneck import BottleneckConfig, BottleneckLayer
from feddat.adapters.soft_prompt import SoftPromptConfig


def wrap(case: Case, *adapters: str, dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
    """Return the case's model with adapters large enough to be seen in its output."""
    first, *others = adapters or ("default",)
    model = get_peft_model(case.build(dtype), BottleneckConfig(**options), adapter_name=first)
    for name in others:
        model.add_adapter(name, BottleneckConfig(**options))
    enlarge(model)
    return model


def enlarge(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in layers(model).values():
            for name in layer.bottleneck_down:
                for parameter in [*layer.bottleneck_down[name].parameters(), *layer.bottleneck_up[name].parameters()]:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def layers(model: nn.Module) -> dict[str, BottleneckLayer]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return {name: module for name, module in base.named_modules() if isinstance(module, BottleneckLayer)}


def apply_adapter(layer: BottleneckLayer, name: str, hidden: Tensor) -> Tensor:
    down, up = layer.bottleneck_down[name], layer.bottleneck_up[name]
    return (hidden @ down.weight.T + down.bias).clamp(min=0) @ up.weight.T + up.bias


def manual_output(case: Case, model: PeftModel, names: tuple[str, ...]) -> Tensor:
    """Run the base model without adapter layers, with the published formulas as hooks on its modules."""
    base = case.build()
    for site, layer in layers(model).items():

        def pre_ln(module: nn.Module, args: Any, output: Any, layer: BottleneckLayer = layer) -> Tensor:
            return output + sum(apply_adapter(layer, name, output) for name in names)

        def post_ln(module: Any, args: Any, output: Tensor, layer: BottleneckLayer = layer) -> Tensor:
            hidden, residual = args
            update = module.dense(hidden)
            added = sum(apply_adapter(layer, name, module.LayerNorm(update + residual)) for name in names)
            return module.LayerNorm(update + added + residual)

        base.get_submodule(site).register_forward_hook(post_ln if case.name == "bert" else pre_ln)
    return case.run(base)


def test_a_hand_made_site() -> None:
    """Width 2, reduction 2: y = (1, -2), down (1, -1), up (2, 3), bias (0, 1): A(y) = relu(3)·(2, 3) + (0, 1)."""
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    wrapped = get_peft_model(model, BottleneckConfig(target_modules=["0"], reduction=2))
    layer = layers(wrapped)["0"]
    with torch.no_grad():
        layer.bottleneck_down["default"].weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.bottleneck_up["default"].weight.copy_(torch.tensor([[2.0], [3.0]]))
        layer.bottleneck_up["default"].bias.copy_(torch.tensor([0.0, 1.0]))
    assert wrapped(torch.tensor([1.0, -2.0])).tolist() == [7.0, 8.0]
    assert wrapped(torch.tensor([-1.0, 2.0])).tolist() == [-1.0, 3.0], "ReLU shuts off: only the bias is added"
    layer.scaling["default"] = 0.5
    assert wrapped(torch.tensor([1.0, -2.0])).tolist() == [4.0, 3.0]


def test_default_sites(case: Case) -> None:
    assert tuple(layers(wrap(case))) == case.sites
    assert all(layer.width == 32 for layer in layers(wrap(case)).values())


def test_default_sites_inside_a_task_model() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = hf.ViltForMaskedLM(hf.ViltConfig(**sizes, vocab_size=50, image_size=32, patch_size=16))
    wrapped = get_peft_model(model, BottleneckConfig())
    assert list(layers(wrapped)) == ["vilt.encoder.layer.0.output", "vilt.encoder.layer.1.output"]


def test_placement_is_the_published_formula(case: Case) -> None:
    model = wrap(case)
    assert {layer.placement for layer in layers(model).values()} == {"post_ln" if case.name == "bert" else "output"}
    torch.testing.assert_close(case.run(model), manual_output(case, model, ("default",)))
    assert (case.run(model) - case.run(case.build())).abs().max() > 1e-3


def test_active_adapters_add_up(case: Case) -> None:
    model = wrap(case, "first", "second")
    model.base_model.set_adapter(["first", "second"])
    torch.testing.assert_close(case.run(model), manual_output(case, model, ("first", "second")))


def test_initial_weights_follow_the_paper(vilt: Case) -> None:
    model = get_peft_model(vilt.build(), BottleneckConfig(reduction=2))
    linears = [
        m
        for layer in layers(model).values()
        for m in (layer.bottleneck_down["default"], layer.bottleneck_up["default"])
    ]
    weights = torch.cat([linear.weight.flatten() for linear in linears])
    assert weights.numel() == 4 * 32 * 16
    assert abs(weights.mean()) < 0.002 and abs(weights.std() - 0.02) < 0.001
    assert all(linear.bias.eq(0).all() for linear in linears)


def test_vilt_b32_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = hf.ViltModel(hf.ViltConfig())
    wrapped = get_peft_model(model, BottleneckConfig())
    trainable, _ = wrapped.get_nb_trainable_parameters()
    assert trainable == 894_528 == 12 * (768 * 48 + 48 + 48 * 768 + 768)


def test_only_adapters_train(case: Case) -> None:
    model = wrap(case)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 4 * len(case.sites) and all(".bottleneck_" in name for name in names)


def test_disabled_or_inactive_adapters_leave_the_base_model(case: Case) -> None:
    base = case.run(case.build())
    model = wrap(case)
    adapted = case.run(model)
    with model.disable_adapter():
        assert torch.equal(case.run(model), base)
    assert torch.equal(case.run(model), adapted)
    model.base_model.set_adapter([])
    assert torch.equal(case.run(model), base)


def test_set_adapter_chooses(case: Case) -> None:
    model = wrap(case, "first", "second")
    model.set_adapter("first")
    a = case.run(model)
    model.set_adapter("second")
    b = case.run(model)
    assert not torch.equal(a, b)
    model.set_adapter("first")
    assert torch.equal(case.run(model), a)


def test_save_and_load(case: Case, tmp_path: Path) -> None:
    model = wrap(case, "first", "second", reduction=4)
    outputs = {}
    for name in ("first", "second"):
        model.set_adapter(name)
        outputs[name] = case.run(model).detach()
    model.save_pretrained(str(tmp_path))
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path / "first")), BottleneckConfig)

    loaded = PeftModel.from_pretrained(case.build(), str(tmp_path / "first"), adapter_name="first")
    assert torch.equal(case.run(loaded), outputs["first"])
    loaded.load_adapter(str(tmp_path / "second"), adapter_name="other")
    loaded.set_adapter("other")
    assert torch.equal(case.run(loaded), outputs["second"])


@pytest.mark.parametrize(
    "config",
    [
        BottleneckConfig(task_type="SEQ_CLS"),
        BottleneckConfig(modules_to_save=["classifier"]),
        SoftPromptConfig(task_type="SEQ_CLS", target_modules=r"bert\.encoder"),
    ],
    ids=["bottleneck", "by hand", "prompt"],
)
def test_the_head_of_a_task_trains_and_is_saved_as_with_lora(config: PeftConfig, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    base = hf.BertForSequenceClassification(hf.BertConfig(vocab_size=30, num_labels=3, **sizes)).eval()
    other, tokens = copy.deepcopy(base), torch.arange(6)[None]
    other.classifier.reset_parameters()
    model = get_peft_model(base, copy.deepcopy(config)).eval()
    assert {name for name, p in model.named_parameters() if p.requires_grad and "classifier" in name}
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(other, tmp_path).eval()
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)


def test_load_without_allocating_twice(case: Case, tmp_path: Path) -> None:
    model = wrap(case)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(case.build(), str(tmp_path), low_cpu_mem_usage=True)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert torch.equal(case.run(loaded), case.run(model))


def test_deepcopy_is_independent(case: Case) -> None:
    model = wrap(case)
    expected = case.run(model)
    twin = copy.deepcopy(model)
    assert torch.equal(case.run(twin), expected)
    with torch.no_grad():
        for layer in layers(twin).values():
            layer.bottleneck_up["default"].bias.add_(1)
    assert torch.equal(case.run(model), expected)
    assert not torch.equal(case.run(twin), expected)


def test_unload_gives_the_base_model_back(case: Case) -> None:
    base = case.build()
    expected, keys = case.run(base), list(base.state_dict())
    model = get_peft_model(base, BottleneckConfig())
    enlarge(model)
    unloaded = model.unload()
    assert torch.equal(case.run(unloaded), expected)
    assert list(unloaded.state_dict()) == keys


def test_delete_adapter(case: Case) -> None:
    model = wrap(case, "first", "second")
    model.set_adapter("second")
    expected = case.run(model)
    model.delete_adapter("first")
    assert not any(".first." in name for name in model.state_dict())
    assert torch.equal(case.run(model), expected)


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_merging_is_refused(vilt: Case, merge: str) -> None:
    model = wrap(vilt)
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        getattr(model, merge)()


def test_half_precision_base_gets_full_precision_adapters(case: Case) -> None:
    model = wrap(case, dtype=torch.bfloat16)
    kinds = {name.split(".bottleneck_")[0] == name: p.dtype for name, p in model.named_parameters()}
    assert kinds == {True: torch.bfloat16, False: torch.float32}
    output = case.run(model)
    assert output.dtype == torch.bfloat16
    assert (output - case.run(case.build(torch.bfloat16))).abs().max() > 1e-3
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.slow  # compiling takes most of it; test_dual.py compiles one family in every run
def test_compiled_model_gives_the_same_numbers(case: Case) -> None:
    model = wrap(case)
    expected = case.run(model)
    torch._dynamo.reset()
    torch.testing.assert_close(case.run(torch.compile(model, backend="eager")), expected)


SECOND_LAYERS = {
    "vilt": "encoder.layer.1",
    "bert": "encoder.layer.1",
    "vit": "layers.1.base_layer",
    "clip": "vision_model.encoder.layers.1.base_layer",
    "smolvlm": "model.text_model.layers.1",
}


def test_recorded_hidden_states_are_the_adapted_ones(case: Case) -> None:
    """The hidden states that transformers records after the first layer are the second layer's input."""
    base = case.build()
    case.forward(base, output_hidden_states=True)  # installs the recorder's hooks before the adapters' own
    model = get_peft_model(base, BottleneckConfig())
    enlarge(model)
    read: list[Tensor] = []
    second = model.get_base_model().get_submodule(SECOND_LAYERS[case.name])
    second.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    output = case.forward(model, output_hidden_states=True)
    recorded = (output.vision_model_output if case.name == "clip" else output).hidden_states
    assert torch.equal(recorded[1], read[0])


def test_gradient_checkpointing_keeps_gradients(case: Case) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = wrap(case)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        case.run(model).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert all(gradient is not None for gradient in plain.values())
    torch.testing.assert_close(checkpointed, plain)


def test_sites_by_regular_expression(case: Case) -> None:
    only = case.sites[-1]
    model = wrap(case, target_modules=only.replace(".", r"\."))
    assert list(layers(model)) == [only]


def test_model_without_known_sites_is_refused() -> None:
    with pytest.raises(ValueError, match="'custom' has no default adapter sites; give a regular expression"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), BottleneckConfig())


def test_placement_must_fit_the_site(bert: Case, vit: Case) -> None:
    with pytest.raises(ValueError, match="ViTLayer: placement 'post_ln' needs"):
        wrap(vit, placement="post_ln")
    explicit = wrap(bert, placement="output")
    assert {layer.placement for layer in layers(explicit).values()} == {"output"}
    with pytest.raises(ValueError, match="adapter 'second': placement 'post_ln' differs from placement 'output'"):
        explicit.add_adapter("second", BottleneckConfig())


def test_site_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="LayerNorm: has no linear layer"):
        get_peft_model(nn.Sequential(nn.LayerNorm(2)), BottleneckConfig(target_modules=["0"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, "reduction must be at least 1, got 0"),
        ({"placement": "before"}, "placement must be one of auto, output, post_ln, got 'before'"),
        ({"init_std": -1.0}, "init_std must not be negative"),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(**options)
